"""Commands as fresh processes: how long each takes, and the most memory it holds.

A process inherits the peak of the one that starts it (``ru_maxrss`` outlives exec on Linux), and a
benchmark holds torch. So this file, run as a script that loads next to nothing, starts it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Ran(NamedTuple):
    """What a process did.

    Attributes:
        wall_s: Seconds from its start to its end.
        cpu_s: Seconds of processor time, its own and of its children.
        peak_bytes: The most resident memory that it, or a single one of its children, held.
        stdout: What it printed.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    stdout: str


def run(command: Sequence[object], environment: Mapping[str, str] | None = None) -> Ran:
    """Run a command to its end.

    Args:
        command: The program and its arguments.
        environment: Its variables; those of this process when None.

    Raises:
        subprocess.CalledProcessError: It failed; what it said stands on stderr.
    """
    words = [str(word) for word in command]
    starter = (sys.executable, "-I", "-S", __file__, *words)
    done = subprocess.run(
        starter, check=True, env=environment, stdout=subprocess.PIPE, encoding="utf-8"
    )
    status, *said = json.loads(done.stdout)
    if status:
        raise subprocess.CalledProcessError(status, words)
    return Ran(*said)


def main() -> None:
    """Run the command that the arguments name, and print what it did as JSON."""
    start = time.perf_counter()
    child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
    assert child.stdout is not None
    stdout = child.stdout.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    cpu_s = usage.ru_utime + usage.ru_stime
    print(json.dumps((child.returncode, wall_s, cpu_s, peak_bytes, stdout)))


if __name__ == "__main__":
    main()
