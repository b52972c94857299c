"""Commands killed: before each call that changes a file, and at random moments."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from random import Random

from hostile.folders import Contents, find_torn, list_differences, read_contents, read_logs, settle
from hostile.inputs import FIT
from hostile.outcome import Outcome, Verdict
from hostile.processes import Command

_MODEL = ("part.safetensors", "part.moments.safetensors")
_PAIR = ("part.xml", "part.bin")


_COLD = {"XDG_CACHE_HOME": "cache"}  # in the folder that is looked at
_STEP = 37  # between two calls before which a command is killed: a few kills are spread over all


@dataclass(frozen=True)
class Scenario:
    """A command, and the files of the site that it changes."""

    arguments: tuple[str, ...]
    files: tuple[str, ...] = ()  # copied; what is only read stays in the site
    variables: Mapping[str, str] = field(default_factory=dict)  # of its environment


SCENARIOS: dict[str, Scenario] = {
    "fit": Scenario(("fit", "{site}/other", "-o", "part.safetensors", *FIT), _MODEL[:1]),
    "fit, first": Scenario(("fit", "{site}/other", "-o", "new/part.safetensors", *FIT)),
    "fit, moments": Scenario(
        ("fit", "{site}/other", "-o", "part.safetensors", "--keep-moments", *FIT), _MODEL
    ),
    "update": Scenario(("update", "part.safetensors", "{site}/more/a.png"), _MODEL),
    "forget": Scenario(("forget", "part.safetensors", "{site}/good/0.png"), _MODEL),
    "merge": Scenario(
        ("merge", "{site}/part.safetensors", "{site}/other.safetensors", "-o", "part.safetensors"),
        _MODEL,
    ),
    "calibrate": Scenario(("calibrate", "part.safetensors", "{site}/held"), _MODEL),
    "calibrate, onnx": Scenario(("calibrate", "part.onnx", "{site}/held"), ("part.onnx",)),
    "calibrate, openvino": Scenario(("calibrate", "part.xml", "{site}/held"), _PAIR),
    "export, onnx": Scenario(
        ("export", "{site}/other.safetensors", "-o", "part.onnx"), ("part.onnx",)
    ),
    "export, openvino": Scenario(("export", "{site}/other.safetensors", "-o", "part.xml"), _PAIR),
    "predict": Scenario(
        ("predict", "{site}/part.safetensors", "{site}/held", "-o", "predictions", "--maps", "npy"),
        ("predictions",),
    ),
    "predict, first": Scenario(
        ("predict", "{site}/part.safetensors", "{site}/held", "-o", "new", "--maps", "tiff")
    ),
    "benchmark": Scenario(("benchmark", "{site}/root", "-o", "first", *FIT), ("first",)),
    "benchmark, first": Scenario(("benchmark", "{site}/root", "-o", "new", *FIT)),
    "report": Scenario(("report", "first"), ("first",)),
    "fit, cold": Scenario(
        ("fit", "{site}/other", "-o", "part.safetensors", *FIT), _MODEL[:1], _COLD
    ),
    "weights fetch": Scenario(("weights", "fetch", "efficientnet_lite0", "--to", "new")),
    "demo": Scenario(("demo", "-o", "new"), variables={"PYTHONPATH": "{site}/packages"}),
}


@dataclass(frozen=True)
class Whole:
    """What a command leaves that is not killed."""

    old: Contents
    new: Contents
    logs: dict[str, str]
    n_events: int
    took_s: float


class Killer:
    """Kills commands, and looks at what is left."""

    def __init__(self, context: ForkServerContext, site: Path, folder: Path, seed: int) -> None:
        self._context, self._site, self._folder, self._seed = context, site, folder, seed
        self._wholes: dict[str, Whole] = {}

    def run(self, kind: str, indices: range | list[int]) -> list[Outcome]:
        """Kill some; of each command in turn three of four before a call, else at random."""
        return [self._kill(kind, index) for index in indices]

    def _kill(self, kind: str, index: int) -> Outcome:
        name = list(SCENARIOS)[index % len(SCENARIOS)]
        scenario, whole = SCENARIOS[name], self._whole(name)
        turn = index // len(SCENARIOS)
        self._set_up(scenario)
        random = Random(f"{self._seed}/{kind}/{index}")
        event = turn - turn // 4
        if turn % 4 < 3 and event < whole.n_events:
            event = event * _STEP % whole.n_events
            change = f"{name}, before change {event} of {whole.n_events}"
            self._start(scenario, event).wait()
        else:
            moment_s = random.uniform(0, whole.took_s)
            change = f"{name}, after {moment_s:.3f} s"
            command = self._start(scenario, None)
            command.kill_after(moment_s)
            command.wait()
        torn = find_torn(self._folder, whole.old, whole.new, whole.logs)
        if torn is not None:
            return Outcome(kind, index, Verdict.LOST, change, f"{name}: {torn}")
        again = self._start(scenario, None).wait()
        if again.hung:
            return Outcome(kind, index, Verdict.HANG, change, f"{name}, run again")
        if "Traceback" in again.said:
            said = again.said.strip().splitlines()[-1][:200]
            return Outcome(kind, index, Verdict.TRACEBACK, change, f"{name}, run again: {said}")
        left = read_contents(self._folder)
        if again.status:  # it was done before the kill, and what is refused tidies nothing
            left = settle(left)
        if left != whole.new:
            said = list_differences(left, whole.new)
            end = f"{name}, run again ({again.status}): {said}"
            return Outcome(kind, index, Verdict.LOST, change, end)
        return Outcome(kind, index, Verdict.SAME, change)

    def _whole(self, name: str) -> Whole:
        """What the command does that is not killed; run once."""
        if name not in self._wholes:
            scenario = SCENARIOS[name]
            self._set_up(scenario)
            old = read_contents(self._folder)
            start_s = time.monotonic()
            ended = self._start(scenario, None).wait()
            took_s = time.monotonic() - start_s
            if ended.status != 0:
                raise AssertionError(f"{name} fails: {ended.said}")
            new = read_contents(self._folder)
            self._wholes[name] = Whole(old, new, read_logs(self._folder), ended.n_events, took_s)
        return self._wholes[name]

    def _set_up(self, scenario: Scenario) -> None:
        set_up(self._site, self._folder, scenario.files)

    def _start(self, scenario: Scenario, kill_before: int | None) -> Command:
        arguments = fill(scenario.arguments, self._site)
        values = fill(tuple(scenario.variables.values()), self._site)
        variables = dict(zip(scenario.variables, values, strict=True))
        return Command(self._context, arguments, self._folder, kill_before, variables=variables)


def set_up(site: Path, folder: Path, files: tuple[str, ...]) -> None:
    """Make a folder hold these files of the site, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in files:
        if (site / name).is_dir():
            shutil.copytree(site / name, folder / name)
        else:
            shutil.copy2(site / name, folder / name)


def fill(arguments: tuple[str, ...], site: Path) -> tuple[str, ...]:
    """Arguments with the site's folder in them."""
    return tuple(argument.replace("{site}", str(site)) for argument in arguments)
