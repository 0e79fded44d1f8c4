"""The command line: nothing here that the library cannot do."""
