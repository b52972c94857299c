"""Fit and evaluate every category of a dataset, and write down what came out.

Each finished category leaves a record and is not done again while nothing it rests on has changed;
an unfinished one leaves nothing.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from padim.datasets import Category
from padim.errors import PadimError, UsageError
from padim.figures import Curve, png, roc_figure
from padim.files import written_whole
from padim.fitting import Fitter
from padim.jobs import Job, Plan, Watcher, run_job
from padim.processes import Tell, in_processes
from padim.run_folder import METRICS, Record, document_of, read_record, record_name, write_results
from padim.state import installed_versions


@dataclass(frozen=True)
class Result:
    """What a benchmark gives.

    Attributes:
        settings: What everything was done with.
        records: One per finished category and seed, in order.
        failed: Category, type and message of what went wrong, one per failed category.
    """

    settings: dict[str, Any]
    records: list[Record]
    failed: list[dict[str, str]] = field(default_factory=list)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The contents of ``results.json``."""
        return document_of(self.settings, self.records, self.failed)


def run(
    categories: Sequence[Category],
    plan: Plan,
    out: Path,
    watcher: Watcher,
    *,
    fitter: Fitter | None = None,
    n_workers: int = 1,
) -> Result:
    """Fit and evaluate categories.

    Args:
        categories: What to do.
        plan: How to do it.
        out: Folder for the results.
        watcher: Told of what happens.
        fitter: That of the first seed, when it is prepared already.
        n_workers: Processes at a time; with one, all is done in this process.

    Returns:
        What came out; a category that fails does not stop the others.

    Raises:
        UsageError: Nothing is random, and there are several seeds.
    """
    fitter = fitter or plan.fitter(0)
    if plan.n_seeds > 1 and fitter.pyramid.n_dims == fitter.spec.n_dims:
        raise UsageError(
            "Nothing is random with all dimensions, so every seed would give the same. Draw some "
            "with --dims, or leave --seeds out."
        )
    settings = settings_of(fitter) | {"n_seeds": plan.n_seeds}
    log = _Log(out / "log.jsonl")
    log.write("started", settings=settings, categories=[category.name for category in categories])
    records: dict[str, Record] = {}
    jobs = []
    for category in categories:
        fingerprint = {
            "settings": settings,
            "images": _fingerprint(category),
            "colormap": plan.colormap,
        }
        for seed in range(plan.n_seeds):
            job = Job(category, seed, fingerprint)
            if (known := _still_true(job, plan, out, watcher)) is None:
                jobs.append(job)
            else:
                records[job.name] = known
                log.write("reused", category=category.name, seed=seed)
    failed = []
    for job, record, failure in _done(jobs, plan, out, watcher, fitter, n_workers):
        if record is not None:
            record.save(out)
            records[job.name] = record
            row = record.data["row"]
            log.write("finished", **{k: row[k] for k in ("category", *METRICS)}, seed=job.seed)
            continue
        assert failure is not None
        kind, message = failure
        watcher.say(f"{job.category.name} failed: {message}")
        failed.append({"category": job.category.name, "type": kind, "message": message})
        log.write("failed", **failed[-1], seed=job.seed)
    finished = [
        records[record_name(category.name, seed)]
        for category in categories
        for seed in range(plan.n_seeds)
        if all(record_name(category.name, s) in records for s in range(plan.n_seeds))
    ]
    result = Result(settings, finished, failed)
    write_results(result.document, finished, out)
    write_roc(result, out / "roc_curve.png")
    log.write("ended", n_finished=len(finished), n_failed=len(failed))
    return result


def settings_of(fitter: Fitter) -> dict[str, Any]:
    """Everything that decides the numbers, as plain data."""
    settings = asdict(fitter.settings)
    return json.loads(  # type: ignore[no-any-return]  # what comes back is what went in
        json.dumps(
            {
                "recipe": settings.pop("name"),
                "backbone": fitter.spec.name,
                **settings,
                "taps": fitter.spec.taps,
                "n_dims": fitter.pyramid.n_dims,
                "engine": fitter.engine,
                "precision": fitter.precision,
                "store": fitter.store,
                "weights_sha256": fitter.weights_sha256,
                "versions": installed_versions(),
            }
        )
    )


def _still_true(job: Job, plan: Plan, out: Path, watcher: Watcher) -> Record | None:
    """The record of a job that need not be done again."""
    known = read_record(out, job.name)
    if known is None:
        return None
    name, before = job.category.name, known.data["fingerprint"]
    is_whole = plan.skip_unreadable or not known.data["unreadable"]
    has_maps = not plan.keep_maps or (out / "maps" / name).is_dir()
    if is_whole and has_maps and before == job.fingerprint:
        watcher.say(f"{name}: finished before, nothing changed.")
        return known
    reason = _changed(before, job.fingerprint) if has_maps else "maps that are to be kept"
    watcher.say(f"{name}: done again, because of {reason}.")
    for suffix in (".json", ".npz"):
        (out / "records" / f"{job.name}{suffix}").unlink(missing_ok=True)
    return None


def _done(
    jobs: Sequence[Job], plan: Plan, out: Path, watcher: Watcher, fitter: Fitter, n_workers: int
) -> Iterator[tuple[Job, Record | None, tuple[str, str] | None]]:
    """Do jobs, here or in processes: each with its record, or why it failed."""
    if n_workers > 1:
        work = [(job, plan, out) for job in jobs]

        def told(item: tuple[Job, Plan, Path], line: str) -> None:
            watcher.say(line)

        advance = watcher.progress("categories", len(jobs))
        for ended in in_processes(_work, work, n_workers, told):
            advance(1)
            yield ended.item[0], ended.result, ended.failure
        return
    fitters = {0: fitter}
    for job in jobs:
        if job.seed not in fitters:
            fitters = {0: fitter, job.seed: plan.fitter(job.seed)}
        try:
            yield job, run_job(job, plan, fitters[job.seed], out, watcher), None
        except PadimError as error:
            yield job, None, (type(error).__name__, str(error))


def _work(item: tuple[Job, Plan, Path], tell: Tell) -> Record:
    """Do a job in a process of its own."""
    job, plan, out = item
    return run_job(job, plan, plan.fitter(job.seed), out, _Teller(tell))


class _Teller:
    """A watcher in another process: lines go to the one that waits, progress nowhere."""

    def __init__(self, tell: Tell) -> None:
        self.say = tell

    def progress(self, description: str, n_images: int) -> Callable[[int], None]:
        return lambda n_done: None


class _Log:
    """Appends what happens to a file, a JSON document each line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def write(self, event: str, **facts: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **facts}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _fingerprint(category: Category) -> list[list[str | int]]:
    files = [*category.train, *(sample.path for sample in category.test)]
    files += [path for sample in category.test for path in sample.mask_paths]
    found: list[list[str | int]] = []
    for path in files:
        try:
            status = path.stat()
        except FileNotFoundError:  # a list may name what is not there; whoever reads it says so
            found.append([category.name_of(path), -1, -1])
            continue
        found.append([category.name_of(path), status.st_size, status.st_mtime_ns])
    return found


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    settings = [
        key for key in now["settings"] if before["settings"].get(key) != now["settings"][key]
    ]
    others = {"images": "its images", "colormap": "the colours of its pictures"}
    settings += [words for key, words in others.items() if before.get(key) != now[key]]
    return ", ".join(settings) or "images that were left out"


def write_roc(result: Result, path: Path) -> None:
    """Draw the ROC curves of a benchmark into a file."""
    curves: dict[str, dict[str, Curve]] = {"image": {}, "pixel": {}}
    for record in result.records:
        for kind, found in curves.items():
            fpr, tpr = record.data["curves"][kind]
            auroc = record.data["row"][f"{kind}_auroc"]
            if auroc is not None:
                found.setdefault(record.category, (fpr, tpr, auroc))
    with written_whole(path) as partial:
        partial.write_bytes(png(roc_figure(curves["image"], curves["pixel"])))
