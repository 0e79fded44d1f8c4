"""The fast engine on an NVIDIA GPU: the steps of a chunk in one kernel that stays on the chip."""
