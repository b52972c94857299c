"""A process that writes as fast as it can, and says what it was told.

Its words are a database and a number that no other has.
"""

import os
import sys
import threading
from itertools import count

from inspections import end

from padim.store.inspection import Arrival, Inspection, Verdict, name_inspection
from padim.store.store import Store
from padim.store.writer import Writer

N_THREADS = 4
VERDICTS = tuple(Verdict)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one call, so that threads do not cut lines in two


def work(writer: Writer, number: int, thread: int) -> None:
    for n in count():
        arrival = Arrival(
            name_inspection(float(n)), "part", float(n), "camera", f"{number} {thread} {n}"
        )
        accepted = writer.accept(arrival).result()
        assert not isinstance(accepted, Inspection)
        say(f"accepted {arrival.id}")
        verdict = VERDICTS[n % 3]
        writer.finish(end(accepted, verdict)).result()
        say(f"finished {arrival.id} {verdict.name}")


if __name__ == "__main__":
    writer = Writer(Store.open(sys.argv[1]), {"part": ("file",)})
    threads = [
        threading.Thread(target=work, args=(writer, int(sys.argv[2]), n)) for n in range(N_THREADS)
    ]
    for thread in threads:
        thread.start()
