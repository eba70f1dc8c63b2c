"""`python -m smlib` is `smlib`."""

from smlib.cli.app import main

if __name__ == "__main__":
    main()
