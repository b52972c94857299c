"""The command line: ``padim`` and ``python -m padim``."""

from padim.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
