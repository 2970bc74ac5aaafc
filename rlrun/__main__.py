"""`python -m rlrun` is the command `rlrun`; both begin here."""

import sys


def main() -> None:
    """Run the command line, and exit."""
    try:
        from rlrun.cli import main as run_command_line
    except KeyboardInterrupt:  # Imports take half a second.
        sys.stderr.write("rlrun: interrupted before it began.\n")
        sys.exit(130)
    run_command_line()


if __name__ == "__main__":
    main()
