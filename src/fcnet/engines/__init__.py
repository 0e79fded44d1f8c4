"""Engines: what runs a network, and how one is chosen."""
