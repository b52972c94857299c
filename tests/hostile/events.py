"""A process that kills itself before its n-th call that changes a file."""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = frozenset(
    {
        "os.rename",
        "os.remove",
        "os.mkdir",
        "os.rmdir",
        "os.truncate",
        "os.link",
        "os.symlink",
        "os.chmod",
        "os.utime",
    }
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def count_events(folder: Path, kill_before: int | None) -> Callable[[], int]:
    """Count calls that change a file in a folder; die by SIGKILL before one of them.

    Python tells of opening, renaming and removing; ``os.fsync`` and ``os.write``, of which it does
    not tell, are wrapped.

    Returns:
        How many there were so far.
    """
    numbers = itertools.count()
    root = str(folder.resolve())

    def step() -> None:
        if next(numbers) == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)

    def is_inside(path: object) -> bool:
        try:
            name = os.fspath(path)  # type: ignore[call-overload]  # of any type in an audit event
        except TypeError:
            return isinstance(path, int)
        whole = os.path.abspath(os.fsdecode(name))  # noqa: PTH100  # asks the system nothing
        return whole.startswith(root)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and is_inside(path):
                step()
        elif event in _CHANGES and is_inside(arguments[0]):
            step()

    for name in ("fsync", "write"):
        setattr(os, name, _wrap(getattr(os, name), step))
    sys.addaudithook(hear)
    return lambda: next(numbers)


def _wrap(call: Callable[..., Any], step: Callable[[], None]) -> Callable[..., Any]:
    def stepped(*arguments: Any) -> Any:
        step()
        return call(*arguments)

    return stepped
