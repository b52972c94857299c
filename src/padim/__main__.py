"""The command line: ``padim`` and ``python -m padim``."""

import sys


def main() -> int:
    """Run the command line, which a Ctrl-C may reach while it is still being loaded."""
    try:
        from padim.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("error: Interrupted.\n")
        return 130
    return run()


if __name__ == "__main__":
    raise SystemExit(main())
