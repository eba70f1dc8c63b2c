"""The command line: `smlib`, or `python -m smlib`."""
