"""``python -m fcnet`` is the command line."""

from fcnet.cli.app import main

if __name__ == "__main__":
    main()
