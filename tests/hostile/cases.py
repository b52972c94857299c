"""Changed inputs, used in watched processes."""

import shutil
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from random import Random

from hostile.outcome import Outcome, Verdict, is_sentence
from hostile.processes import BrokenError, Worker, redirect
from hostile.targets import TARGETS, Target
from padim.errors import PadimError, failure_of

_MOST_CASES = 2000  # of one process
_NOT_FINITE = repr("not finite")


class Pool:
    """One watched process after another, each for many cases."""

    def __init__(self, context: ForkServerContext, site: Path, folder: Path, seed: int) -> None:
        self._context, self._site, self._folder, self._seed = context, site, folder, seed
        self._worker: Worker | None = None
        self._n_cases = 0

    def run(self, kind: str, indices: Iterator[int] | range | list[int]) -> list[Outcome]:
        """Run cases of a kind."""
        return [self._run_one(kind, index) for index in indices]

    def _run_one(self, kind: str, index: int) -> Outcome:
        verdict, change, said = self._ask(kind, index)
        if verdict == Verdict.HANG:  # the machine may have been busy with something else
            verdict, change, said = self._ask(kind, index)
        return Outcome(kind, index, verdict, change, said)

    def _ask(self, kind: str, index: int) -> tuple[Verdict, str, str]:
        if self._worker is None or self._n_cases >= _MOST_CASES:
            self.close()
            self._folder.mkdir(parents=True, exist_ok=True)
            arguments = (str(self._site), str(self._folder), self._seed)
            self._worker = Worker.start(self._context, serve, *arguments)
        self._n_cases += 1
        try:
            verdict, change, said = self._worker.ask((kind, index))
        except BrokenError as broken:
            verdict, said = broken.args
            change = self._read("note")
            if said.startswith("exit"):  # a fault of the change, not of padim
                raise AssertionError(self._read("said")) from broken
            self.close()
        return Verdict(verdict), change, said

    def _read(self, name: str) -> str:
        """What the process that broke was doing, or said."""
        path = self._folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """End the process, and remove what it left."""
        if self._worker is not None:
            self._worker.stop()
        self._worker, self._n_cases = None, 0
        shutil.rmtree(self._folder, ignore_errors=True)


def serve(connection: Connection, site: str, folder: str, seed: int) -> None:
    """Answer what became of each case that is asked for."""
    redirect(Path(folder, "said"))
    targets: dict[str, Target] = {}
    wholes: dict[str, str] = {}  # what is given of inputs that are not changed
    while True:
        kind, index = connection.recv()
        if kind not in targets:
            place = Path(folder) / kind
            place.mkdir()
            targets[kind] = target = TARGETS[kind](Path(site), place)
            if target.is_fixed:
                target.restore()
                wholes[kind] = repr(target.use())
        connection.send("ready")
        random = Random(f"{seed}/{kind}/{index}")
        connection.send(judge(targets[kind], random, Path(folder), wholes.get(kind)))


def judge(
    target: Target, random: Random, folder: Path, whole: str | None = None
) -> tuple[Verdict, str, str]:
    """Change an input, use it, and say what became of it, and where.

    ``whole`` is what the input gives that is not changed, where that is always the same.
    """
    change = target.change(random)
    (folder / "note").write_text(change.what, errors="backslashreplace")
    try:
        given = repr(target.use())
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            return Verdict.TRACEBACK, change.what, _locate(error)
        if not is_sentence(failure[1]):
            return Verdict.TRACEBACK, change.what, f"no sentence: {failure[1]!r:.300}"
        return Verdict.REFUSED, change.what, failure[1][:300]
    if given == _NOT_FINITE:
        return Verdict.SILENT, change.what, "not finite"
    target.restore()
    try:
        unchanged = whole or repr(target.use())
    except PadimError as error:  # an image of several pages, of which the change left one
        unchanged = repr(error)
    if given == unchanged:
        return Verdict.SAME, change.what, ""
    verdict = Verdict.SILENT if change.is_sealed else Verdict.OTHER
    return verdict, change.what, "another result"


def _locate(error: Exception) -> str:
    """The error, and the deepest line of padim that it came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/padim/" in f.filename]
    where = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    name = where.filename.split("/padim/")[-1]
    return f"{name}:{where.lineno} {type(error).__name__}: {error}"[:300]
