"""A disk that is full for a while: that of a process that may write no larger files."""

import resource
import sys
import threading
from concurrent.futures import wait
from pathlib import Path

from inspections import end, make_arrival

from padim.store.inspection import Verdict
from padim.store.store import Store
from padim.store.writer import Writer

path = Path(sys.argv[1])
store = Store.open(str(path))
writer = Writer(store, {"part": ("file",)})
arrivals = [make_arrival(key=str(n), tags={"words": "x" * 500}) for n in range(300)]
for arrival in arrivals[:100]:
    writer.accept(arrival).result(60)

most = max(one.stat().st_size for one in path.parent.iterdir())
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
futures = [writer.finish(end(one, Verdict.NOK)) for one in arrivals[:100]]
futures += [writer.accept(one) for one in arrivals[100:]]  # type: ignore[misc]  # only waited for
while not writer.trouble:
    threading.Event().wait(0.01)
assert not all(one.done() for one in futures)
assert wait(futures, 1).not_done
words = writer.trouble
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert not wait(futures, 60).not_done
assert not writer.trouble
assert writer.close(60)
found = {one.arrival.id: one for one in store.find(limit=1000)}
assert found == {one.id: end(one, Verdict.NOK) for one in arrivals[:100]}
assert {one.id for one in store.list_pending()} == {one.id for one in arrivals[100:]}
assert store.count_outbox("file") == 100
store.close()
sys.stdout.write(f"{words}\n")
