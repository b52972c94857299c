"""A station that a test kills: a watched folder, the database, a file of records.

It says ``working`` once it works, and ends by itself when its standard input does.
"""

import hashlib
import sys
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from inspections import end

from padim.line.files import FileSink
from padim.line.folder import FolderSource
from padim.line.protocols import Part
from padim.line.settings import FileSettings, FolderSettings
from padim.line.supervisor import Pauses, Supervisor
from padim.store.inspection import Arrival, Inspection, Verdict, name_inspection
from padim.store.store import Store
from padim.store.writer import Writer


def inspect(writer: Writer, part: Part, source: str) -> Future[Inspection]:
    """Judge a picture by its bytes, as a model would: always alike."""
    done: Future[Inspection] = Future()
    arrival = Arrival(
        name_inspection(time.time()),
        part.recipe,
        part.time_s,
        source,
        part.key,
        part.serial,
        part.tags,
    )

    def finish(accepted: Future[Arrival | Inspection]) -> None:
        was = accepted.result()
        if isinstance(was, Inspection):
            done.set_result(was)
            return
        digest = hashlib.sha256(part.picture or b"").digest()
        verdict = (Verdict.OK, Verdict.NOK, Verdict.NOT_INSPECTED)[digest[0] % 3]
        writer.finish(end(was, verdict, time.time())).add_done_callback(
            lambda written: done.set_result(written.result())
        )

    writer.accept(arrival).add_done_callback(finish)
    return done


def main(folder: Path) -> None:
    store = Store.open(str(folder / "station.db"))
    writer = Writer(store, {"part": ("records",)})
    supervisor = Supervisor(
        partial(inspect, writer),
        store,
        [
            FolderSource(
                FolderSettings(
                    name="camera", path=folder / "in", recipe="part", poll_s=0.02, still_s=0.05
                )
            )
        ],
        [FileSink(FileSettings(name="records", path=folder / "records.jsonl"))],
        pauses=Pauses(0.05, 0.5),
    )
    supervisor.start()
    print("working", flush=True)  # noqa: T201  # to the test
    sys.stdin.read()
    supervisor.stop_sources()
    writer.close()
    supervisor.stop_sinks()
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
