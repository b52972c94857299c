import signal
import subprocess
import sys

import pytest

_BEGIN = """
import atexit, signal, sys, time
from padim.interrupts import guard

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs this may ignore it

class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def swallow():
    Dying()
    time.sleep(9)
    return 0

def clean_up():
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.raise_signal(signal.SIGINT)
        print("clean")

def be_native():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise SystemError("an error is set")

def fail():
    raise ZeroDivisionError
"""


@pytest.mark.parametrize(
    ("run", "status", "out", "err"),
    [
        ("swallow", 130, "", "error: Interrupted.\n"),
        ("clean_up", 143, "clean\n", "error: Ended from outside.\n"),
        ("be_native", 130, "", "error: Interrupted.\n"),
        ("lambda: 3", 3, "", ""),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process by SIGTERM itself")
def test_a_signal_is_a_sentence_and_a_status(run: str, status: int, out: str, err: str) -> None:
    """Also one that a destructor or code in another language swallows, and one at the very end."""
    end = f"atexit.register(signal.raise_signal, signal.SIGINT)\nsys.exit(guard({run}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{_BEGIN}\n{end}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


def test_a_mistake_stays_a_traceback() -> None:
    code = f"{_BEGIN}\nsys.exit(guard(fail))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process by SIGTERM itself")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_command_line_is_guarded_while_it_is_loaded(name: str) -> None:
    code = (
        "import builtins, signal, sys\n"
        f"signal.signal(signal.{name}, signal.SIG_DFL)\n"  # whoever runs this may ignore it
        "from padim.__main__ import main\n"
        "load = builtins.__import__\n"
        "def interrupt(name, *rest):\n"
        "    if name == 'typer':\n"
        "        builtins.__import__ = load\n"
        f"        signal.raise_signal(signal.{name})\n"
        "    return load(name, *rest)\n"
        "builtins.__import__ = interrupt\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + getattr(signal, name)
    assert done.stderr in ("error: Interrupted.\n", "error: Ended from outside.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a signal that is ignored is of POSIX")
def test_what_nohup_ignores_stays_ignored() -> None:
    code = (
        "import signal, sys\n"
        "from padim.interrupts import guard\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "sys.exit(guard(lambda: signal.raise_signal(signal.SIGHUP) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process by SIGTERM itself")
def test_torch_is_loaded_before_a_signal_ends_the_run() -> None:
    """Within its import an exception would end the process by SIGABRT."""
    code = (
        "import os, signal, sys, time\n"
        "from types import ModuleType, SimpleNamespace\n"
        "from padim.interrupts import guard\n"
        "def run():\n"
        "    torch = sys.modules['torch'] = ModuleType('torch')\n"
        "    torch.__spec__ = SimpleNamespace(_initializing=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.1)\n"
        "    print('loaded', flush=True)\n"
        "    torch.__spec__._initializing = False\n"
        "    time.sleep(10)\n"
        "    print('not ended')\n"
        "sys.exit(guard(run))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, "loaded\n")
    assert done.stderr == "error: Ended from outside.\n"


def test_what_is_loaded_is_not_looked_through_when_python_ends() -> None:
    code = (
        "import gc, sys\n"
        "from padim.__main__ import main\n"
        "sys.argv = ['padim', 'backbones', '--json']\n"
        "status = main()\n"
        "sys.exit(status or not gc.get_freeze_count())"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
