"""The long run: ``python -m hostile``, from the folder of the tests."""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

from hostile.cases import Pool
from hostile.inputs import build_aside
from hostile.kills import Killer
from hostile.outcome import KEPT, Outcome, Tally
from hostile.processes import start_server
from hostile.races import Racer
from hostile.targets import SHARES

_CHUNK = 25  # cases between two looks at the clock

Work = tuple[str, range | list[int]]  # a kind, and which cases of it


class Bench:
    """All that one of the processes side by side works with."""

    def __init__(self, context: ForkServerContext, folder: Path, n: int, seed: int) -> None:
        site = folder / "site"
        self.pool = Pool(context, site, folder / f"cases{n}", seed)
        self._killer = Killer(context, site, folder / f"kills{n}", seed)
        self._racer = Racer(context, site, folder / f"races{n}", seed)

    def run(self, kind: str, indices: range | list[int]) -> list[Outcome]:
        """Run cases of a kind."""
        if kind == "kill":
            return self._killer.run(kind, indices)
        if kind == "race":
            return self._racer.run(kind, indices)
        return self.pool.run(kind, indices)


def main() -> int:
    """Run until the counts or the seconds are used up; 1 when a promise was broken."""
    asked = _parse()
    folder = Path(tempfile.mkdtemp(prefix="padim-hostile-"))
    try:
        return _run(asked, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--cases", type=int, default=sum(SHARES.values()))
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--races", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(SHARES), help="such as model,image")
    parser.add_argument("--only", help="KIND:N,N alone, where KIND may be kill or race")
    return parser.parse_args()


def _run(asked: argparse.Namespace, folder: Path) -> int:
    context = start_server(folder / "home")
    build_aside(context, folder / "site")
    benches = [Bench(context, folder, n, asked.seed) for n in range(asked.jobs)]
    tally = _work(list_works(asked), benches, asked)
    for bench in benches:
        bench.pool.close()
    sys.stdout.write(f"{tally.table()}\n{tally.list_broken()}\n")
    return int(bool(tally.broken))


def list_works(asked: argparse.Namespace) -> list[Work]:
    """What to do, in small pieces; of each kind as large a share is done at any time."""
    if asked.only:
        kind, _, numbers = asked.only.partition(":")
        return [(kind, [int(number) for number in numbers.split(",")])]
    chosen = {kind: SHARES[kind] for kind in asked.kinds.split(",") if kind}
    counts = {
        kind: round(asked.cases * share / sum(chosen.values())) for kind, share in chosen.items()
    }
    placed = []
    for kind, n_all in {**counts, "kill": asked.kills, "race": asked.races}.items():
        n_chunk = _CHUNK if kind in counts else 1
        for start in range(0, n_all, n_chunk):
            work = kind, range(start, min(start + n_chunk, n_all))
            placed.append(((start + n_chunk / 2) / n_all, work))
    return [work for _, work in sorted(placed, key=lambda one: one[0])]


def _work(works: list[Work], benches: list[Bench], asked: argparse.Namespace) -> Tally:
    """Do the pieces of work side by side, in their order, until the time is up."""
    tally, lock = Tally(), threading.Lock()
    start_s, left = time.monotonic(), iter(works)

    def do(bench: Bench) -> None:
        while time.monotonic() - start_s < asked.seconds:
            with lock:
                work = next(left, None)
            if work is None:
                return
            found = bench.run(*work)
            with lock:
                tally.add(found)
                tell(tally, found)

    threads = [threading.Thread(target=do, args=(bench,)) for bench in benches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent_s = time.monotonic() - start_s
    sys.stdout.write(f"seed {asked.seed}, {asked.jobs} at a time, {spent_s:.0f} s\n")
    return tally


def tell(tally: Tally, found: list[Outcome]) -> None:
    """Say at once what breaks a promise, and on a terminal how far it is."""
    for one in found:
        if one.verdict not in KEPT:
            sys.stderr.write(f"{one.kind}:{one.index} {one.verdict} [{one.change}] {one.said}\n")
    if sys.stderr.isatty():
        n_done = sum(counts.total() for counts in tally.counts.values())
        sys.stderr.write(f"{n_done} cases, {len(tally.broken)} broken\r")


if __name__ == "__main__":
    raise SystemExit(main())
