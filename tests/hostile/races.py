"""Pairs of commands on one file at a time: the end is that of one order, or one is refused."""

from multiprocessing.context import ForkServerContext
from pathlib import Path
from random import Random

from hostile.folders import Contents, list_differences, read_contents
from hostile.inputs import FIT
from hostile.kills import fill, set_up
from hostile.outcome import Outcome, Verdict
from hostile.processes import Command, Ended

Arguments = tuple[str, ...]

_MODEL = ("part.safetensors", "part.moments.safetensors")
_UPDATE = ("update", "part.safetensors", "{site}/more/a.png")
_FORGET = ("forget", "part.safetensors", "{site}/good/0.png")
_CALIBRATE = ("calibrate", "part.safetensors", "{site}/held")
_EXPORT = ("export", "part.safetensors", "-o", "part.onnx")
_PREDICT = ("predict", "{site}/part.safetensors", "{site}/held", "-o", "out")
_BENCHMARK = ("benchmark", "{site}/root", "-o", "out", *FIT)

RACES: dict[str, tuple[Arguments, Arguments, tuple[str, ...]]] = {
    "update, update": (_UPDATE, ("update", "part.safetensors", "{site}/more/b.png"), _MODEL),
    "update, same": (_UPDATE, _UPDATE, _MODEL),
    "update, forget": (_UPDATE, _FORGET, _MODEL),
    "calibrate, forget": (_CALIBRATE, _FORGET, _MODEL),
    "calibrate, update": (_CALIBRATE, _UPDATE, _MODEL),
    "fit, update": (
        ("fit", "{site}/other", "-o", "part.safetensors", "--keep-moments", *FIT),
        _UPDATE,
        _MODEL,
    ),
    "fit, fit": (
        ("fit", "{site}/other", "-o", "part.safetensors", "--keep-moments", *FIT),
        ("fit", "{site}/good", "-o", "part.safetensors", "--keep-moments", *FIT),
        _MODEL,
    ),
    "export, calibrate": (_EXPORT, _CALIBRATE, (*_MODEL, "part.onnx")),
    "calibrate, calibrate": (
        ("calibrate", "part.xml", "{site}/held"),
        ("calibrate", "part.xml", "{site}/other"),
        ("part.xml", "part.bin"),
    ),
    "export, export": (
        ("export", "{site}/other.safetensors", "-o", "part.xml"),
        ("export", "{site}/part.safetensors", "-o", "part.xml"),
        ("part.xml", "part.bin"),
    ),
    "predict, predict": (
        _PREDICT,
        ("predict", "{site}/part.safetensors", "{site}/other", "-o", "out"),
        (),
    ),
    "benchmark, benchmark": (_BENCHMARK, _BENCHMARK, ()),
}


class Racer:
    """Runs pairs of commands, and looks at where they end."""

    def __init__(self, context: ForkServerContext, site: Path, folder: Path, seed: int) -> None:
        self._context, self._site, self._folder, self._seed = context, site, folder, seed
        self._ends: dict[str, list[Contents]] = {}

    def run(self, kind: str, indices: range | list[int]) -> list[Outcome]:
        """Run some races, each pair in turn, with another start."""
        return [self._race(kind, index) for index in indices]

    def _race(self, kind: str, index: int) -> Outcome:
        name = list(RACES)[index % len(RACES)]
        first, second, files = RACES[name]
        ends = self._list_ends(name)
        wait_s = Random(f"{self._seed}/{kind}/{index}").uniform(-0.3, 0.3)
        change = f"{name}, the second {wait_s:+.3f} s"
        set_up(self._site, self._folder, files)
        commands = [self._start(first, max(-wait_s, 0)), self._start(second, max(wait_s, 0))]
        ended = [command.wait() for command in commands]
        for one in ended:
            if verdict := judge(one):
                return Outcome(kind, index, verdict, change, f"{name}: {one.said.strip()[-200:]}")
        found = read_contents(self._folder)
        # Both done: as one after the other. One refused: as the other alone, or as after it.
        if found not in ends:
            closest = min(ends, key=lambda end: len(list_differences(found, end)))
            statuses = [one.status for one in ended]
            said = f"{name} {statuses}: {list_differences(found, closest)}"
            return Outcome(kind, index, Verdict.LOST, change, said)
        n_done = sum(one.status == 0 for one in ended)
        if n_done == 2 and found not in ends[:2]:
            return Outcome(kind, index, Verdict.LOST, change, f"{name}: one of both is undone")
        verdict = Verdict.SAME if n_done == 2 else Verdict.REFUSED
        return Outcome(kind, index, verdict, change)

    def _list_ends(self, name: str) -> list[Contents]:
        """Where the pair ends one after the other, in both orders, and each alone."""
        if name not in self._ends:
            first, second, files = RACES[name]
            self._ends[name] = []
            for order in ((first, second), (second, first), (first,), (second,)):
                set_up(self._site, self._folder, files)
                for arguments in order:
                    self._start(arguments, 0).wait()
                self._ends[name].append(read_contents(self._folder))
        return self._ends[name]

    def _start(self, arguments: Arguments, wait_s: float) -> Command:
        return Command(self._context, fill(arguments, self._site), self._folder, None, wait_s)


def judge(ended: Ended) -> Verdict | None:
    """What is wrong with the way in which a command ended; None when nothing is."""
    if ended.hung:
        return Verdict.HANG
    if "Traceback" in ended.said:
        return Verdict.TRACEBACK
    if ended.status is None:
        return Verdict.CRASH
    refused = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    return Verdict.LOST if ended.status and len(refused) != 1 else None
