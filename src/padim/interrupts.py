"""What ends a run from outside, made one way: a Ctrl-C, a SIGTERM, a terminal that is closed."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
_SOON_S = 0.01


class Interrupted(KeyboardInterrupt):
    """This run is to end."""


class _Run:
    """The run of this process."""

    received: int | None = None  # the signal that is to end it
    is_over = False  # so that signals end nothing any more


def was_interrupted() -> bool:
    """Whether a signal is to end this run; what else goes wrong then is likely to follow from it.

    Code in other languages may give an error of its own in place of ours.
    """
    return _Run.received is not None


def interrupted_status() -> int:
    """What a run that was interrupted exits with, as shells have it."""
    return 128 + (_Run.received or signal.SIGINT)


def describe_interrupt() -> str:
    """A sentence for a run that was interrupted."""
    is_by_hand = _Run.received in (None, signal.SIGINT)
    return "Interrupted." if is_by_hand else "Ended from outside."


def guard(run: Callable[[], int]) -> int:
    """Run a program, with an exit status and a sentence in place of a traceback when interrupted.

    The first signal raises ``Interrupted`` in the program. Further ones are ignored, so that it can
    clean up, and so are those that come when it has ended and Python does.
    """
    _Run.received, _Run.is_over = None, False
    try:
        try:
            open_streams()
            sys.unraisablehook = _interrupt_again
            for name in _NAMES:
                number = getattr(signal, name, None)
                # One that is ignored, under nohup by custom, stays so.
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, _interrupt)
            return run()
        finally:
            _Run.is_over = True
    except BaseException as error:
        if not was_interrupted() and not isinstance(error, KeyboardInterrupt):
            raise
        with suppress(OSError, ValueError):
            sys.stderr.write(f"error: {describe_interrupt()}\n")
        return interrupted_status()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    if _Run.is_over or _Run.received is not None:
        return
    if _is_loading_torch():
        _send_soon(number)
        return
    _Run.received = number
    raise Interrupted


def _is_loading_torch() -> bool:
    """Whether torch is being imported, in which an exception ends the process by SIGABRT."""
    spec = getattr(sys.modules.get("torch"), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def _interrupt_again(lost: "sys.UnraisableHookArgs") -> None:
    """Interrupt anew where a destructor has swallowed it."""
    if _Run.received is None or not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    number, _Run.received = _Run.received, None
    _send_soon(number)


def _send_soon(number: int) -> None:
    import threading

    again = threading.Timer(_SOON_S, _send, (number,))
    again.daemon = True
    again.start()


def _send(number: int) -> None:
    """Send a signal to the main thread of this process, from another."""
    if sys.platform == "win32":
        import _thread

        _thread.interrupt_main(signal.Signals(number))
    else:
        import threading

        signal.pthread_kill(threading.main_thread().ident or 0, number)


def open_streams() -> None:
    """Let a standard stream that was closed by whoever started this lead nowhere.

    Else the next file that is opened would be in its place.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  # as long as it runs
