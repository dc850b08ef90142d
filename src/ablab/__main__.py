"""`python -m ablab`."""

from ablab.cli.main import main

if __name__ == "__main__":  # spawned workers import this file, too
    main()
