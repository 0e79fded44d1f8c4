"""``python -m fcnet`` is the command line."""

from fcnet.cli.app import main

main()
