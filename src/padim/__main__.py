"""The command line: ``padim`` and ``python -m padim``."""

import gc

from padim.interrupts import guard


def main() -> int:
    """Run the command line, which a Ctrl-C may reach while it is still being loaded."""
    return guard(_run)


def _run() -> int:
    from padim.cli import main as run

    status = run()
    gc.freeze()  # when Python ends it looks through all that is there, which stays in any case
    return status


if __name__ == "__main__":
    raise SystemExit(main())
