"""Fit and evaluate every category of a dataset, and write down what came out."""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import cast

from padim.datasets import Category
from padim.errors import DatasetError, PadimError, UsageError, failure_of, join_names
from padim.evaluation.job import Job, Plan, Watcher, complete, find_missing, run_job
from padim.evaluation.pictures import Curve, draw_roc, encode_png
from padim.evaluation.record import (
    MOST_SEEDS,
    FileStamp,
    Fingerprint,
    Record,
    SampleStamp,
    Settings,
    read_record,
    record_name,
    to_plain,
)
from padim.evaluation.run_folder import Failure, Results, read_results, write_results
from padim.files import lock_folder, plain_text, same_name, write_whole
from padim.fitting.fitter import Fitter
from padim.metrics.resamples import N_RESAMPLES
from padim.temporary import sweep
from padim.workers.protocol import Ended, Shared, Tell, Workers


def run(
    categories: Sequence[Category],
    plan: Plan,
    out: Path,
    watcher: Watcher,
    fitter: Fitter,
    workers: Workers | None = None,
    *,
    overwrite: bool = False,
) -> Results:
    """Fit and evaluate categories, each by one of some workers, or all in this process without.

    Each finished category leaves a record and is not done again while nothing it rests on has
    changed; an unfinished one leaves what was there of it before, and one that fails does not stop
    the others. The fitter is that of the first seed.

    Raises:
        UsageError: Nothing is random, and there are several seeds; or there are too many. Or the
            folder holds a benchmark of other settings or of more categories, which only
            ``overwrite`` replaces.
        PadimError: Another process writes into the folder.
        DatasetError: The results of two categories would have one name.
    """
    if plan.n_seeds > MOST_SEEDS:
        raise UsageError(f"There are {plan.n_seeds} seeds, but may be {MOST_SEEDS}. Try 5.")
    if plan.n_seeds > 1 and fitter.encoder.pyramid.n_dims == fitter.encoder.spec.n_dims:
        raise UsageError(
            "Nothing is random with all dimensions, so every seed would give the same. Draw some "
            "with --dims, or leave --seeds out."
        )
    with lock_folder(out):
        _check_names(categories, out)
        if not overwrite:
            _require_same_benchmark(categories, plan, fitter, out)
        return _run(categories, plan, out, watcher, fitter, workers)


def _check_names(categories: Sequence[Category], out: Path) -> None:
    has_case = not (out / ".LOCK").exists()  # there is a .lock now
    first: dict[str, str] = {}
    for category in categories:
        name = record_name(category.name, 0)
        earlier = first.setdefault(name if has_case else same_name(name), category.name)
        if earlier != category.name:
            raise DatasetError(
                f"The categories {earlier} and {category.name} would be one file in {out}. Rename "
                "one, or take each into a folder of its own with --category."
            )


def _require_same_benchmark(
    categories: Sequence[Category], plan: Plan, fitter: Fitter, out: Path
) -> None:
    """Make sure that the tables of a benchmark of before are not replaced by those of another."""
    before = read_results(out)
    if before is None and (out / "results.json").exists():
        raise UsageError(
            f"{out} holds a benchmark that this release cannot read. Replace its tables with "
            "--overwrite, or choose another folder."
        )
    if before is None or not before.rows:
        return
    ours: Mapping[str, object] = _settings_of(plan, fitter)
    theirs: Mapping[str, object] = before.settings
    other = [
        name
        for name in {**theirs, **ours}
        if name != "n_seeds" and ours.get(name) != theirs.get(name)
    ]
    if before.settings.get("n_seeds", 1) > plan.n_seeds:
        other.append("n_seeds")
    gone = {row.category for row in before.rows} - {category.name for category in categories}
    reasons = [f"with another {join_names(other)}"] * bool(other)
    reasons += [f"of {join_names(sorted(gone))} as well"] * bool(gone)
    if reasons:
        raise UsageError(
            f"{out} holds a benchmark {' and '.join(reasons)}. Replace its tables with "
            "--overwrite, or choose another folder."
        )


def _settings_of(plan: Plan, fitter: Fitter) -> Settings:
    """Everything that the results of each category rest on but its images."""
    return cast(Settings, {**settings_of(fitter), **to_plain(plan.departures())})


def _run(
    categories: Sequence[Category],
    plan: Plan,
    out: Path,
    watcher: Watcher,
    fitter: Fitter,
    workers: Workers | None,
) -> Results:
    rests_on = _settings_of(plan, fitter)
    settings: Settings = {**rests_on, "n_seeds": plan.n_seeds}
    log = _Log(out / "log.jsonl")
    log.write("started", settings=settings, categories=[category.name for category in categories])
    complete(out)
    jobs, records, before = _find_work(categories, plan, out, watcher, log, rests_on)
    failed: dict[str, Failure] = {}

    def write() -> Results:
        finished, there = [], before | records
        for category in categories:
            names = [record_name(category.name, seed) for seed in range(plan.n_seeds)]
            if category.name not in failed and all(name in there for name in names):
                finished += [there[name] for name in names]
        results = Results.of(settings, finished, list(failed.values()))
        write_results(results, finished, out)
        write_roc(finished, out / "roc_curve.png")
        return results

    if jobs:
        write()  # whatever ends this run, the tables are of its settings
    try:
        work = partial(_do_by, workers) if workers else partial(_do_here, fitter)
        with closing(work(jobs, plan, out, watcher)) as done:
            for job, record, failure in done:
                name = job.category.name
                if record is not None:
                    records[job.name] = record
                    log.write("finished", category=name, **record.row.metrics, seed=job.seed)
                    if before.pop(job.name, None):
                        write()
                    continue
                assert failure is not None
                kind, message = failure
                watcher.say(f"{name} failed: {message}")
                failed.setdefault(name, Failure(name, kind, message))
                log.write("failed", category=name, type=kind, message=message, seed=job.seed)
    except BaseException as error:
        log.write("stopped", type=type(error).__name__, message=str(error))
        raise
    finally:
        results = write()
    log.write("ended", n_finished=len(results.rows), n_failed=len(failed))
    return results


def _find_work(
    categories: Sequence[Category],
    plan: Plan,
    out: Path,
    watcher: Watcher,
    log: "_Log",
    rests_on: Settings,
) -> tuple[list[Job], dict[str, Record], dict[str, Record]]:
    """What is to be done, what is done, and what there is of these settings until it is."""
    jobs: list[Job] = []
    records: dict[str, Record] = {}
    before: dict[str, Record] = {}
    for category in categories:
        fingerprint = fingerprint_of(category, rests_on, plan.colormap)
        for seed in range(plan.n_seeds):
            job = Job(category, seed, fingerprint)
            if known := _find_finished(job, plan, out, watcher):
                records[job.name] = known
                log.write("reused", category=category.name, seed=seed)
                continue
            jobs.append(job)
            with suppress(DatasetError):  # damaged, as has been said
                older = read_record(out, job.name)
                if older is not None and _is_current(older, rests_on):
                    before[job.name] = older
    return jobs, records, before


def settings_of(fitter: Fitter) -> Settings:
    """Everything that decides the numbers, as plain data."""
    settings, encoder = fitter.recipe.to_json(), fitter.encoder
    found = {
        "recipe": settings.pop("name"),
        "backbone": encoder.spec.name,
        **settings,
        "taps": encoder.spec.taps,
        "n_dims": encoder.pyramid.n_dims,
        "engine": str(encoder.engine),
        "precision": encoder.precision,
        "store": fitter.settings.store,
        "weights_sha256": encoder.weights_sha256,
        "versions": dict(encoder.versions),
    }
    return cast(Settings, to_plain(found))


def _is_current(record: Record, settings: Settings) -> bool:
    """Whether a record of before goes into the tables until its category is done again."""
    is_paired = record.n_resamples in (0, N_RESAMPLES)
    return is_paired and record.fingerprint.settings == settings


def _find_finished(job: Job, plan: Plan, out: Path, watcher: Watcher) -> Record | None:
    """The record of a job that need not be done again."""
    name = job.category.name
    try:
        known = read_record(out, job.name)
    except DatasetError as error:
        watcher.say(f"{name}: done again. {error}")
        return None
    if known is None:
        return None
    reasons = job.fingerprint.list_changes(known.fingerprint)
    if known.unreadable and not plan.skip_unreadable:
        reasons.append("images that were left out")
    if known.n_resamples not in (0, N_RESAMPLES):
        reasons.append("another number of resamples")
    reasons += [f"missing {what}" for what in find_missing(job, plan, out, len(known.images))]
    if not reasons:
        watcher.say(f"{name}: finished before, nothing changed.")
        return known
    watcher.say(f"{name}: done again, because of {', '.join(reasons)}.")
    return None


def _do_here(
    fitter: Fitter, jobs: Sequence[Job], plan: Plan, out: Path, watcher: Watcher
) -> Generator[Ended[Job, Record], None, None]:
    fitters = {0: fitter}
    for job in jobs:
        record: Record | None = None
        failure: tuple[str, str] | None = None
        try:
            if job.seed not in fitters:
                fitters = {0: fitter, job.seed: plan.fitter(job.seed)}
            record = run_job(job, plan, fitters[job.seed], out, watcher)
        except Exception as error:
            failure = failure_of(error)
            if failure is None:
                raise
        yield Ended(job, record, failure)


def _do_by(
    workers: Workers, jobs: Sequence[Job], plan: Plan, out: Path, watcher: Watcher
) -> Generator[Ended[Job, Record], None, None]:
    advance = watcher.begin("categories", len(jobs))
    work = partial(_work, plan=workers.put(plan), out=out.absolute())
    with closing(workers.map(work, jobs, watcher.say, lambda job: sweep(out))) as ended:
        for one in ended:
            advance(1)
            yield one


def _work(job: Job, tell: Tell, *, plan: Shared[Plan], out: Path) -> Record:
    """Do a job as a worker: lines go to the one that waits, progress nowhere.

    Raises:
        PadimError: It cannot be done, or the folder is another one here.
    """
    if not (out / ".lock").exists():  # whoever waits holds it
        raise PadimError(
            f"{out} is not there on the machine of a worker, which would write into it. Choose a "
            "folder that all machines see."
        )
    known = plan.get()
    return run_job(job, known, known.fitter(job.seed), out, Watcher(tell))


class _Log:
    """Appends what happens to a file, a JSON document each line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def write(self, event: str, **facts: object) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **facts}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def fingerprint_of(category: Category, settings: Settings, colormap: str) -> Fingerprint:
    """Everything a result rests on: files, and what each of them is."""
    files = [*category.train, *(sample.path for sample in category.test)]
    # An export is the mask of many images.
    files += dict.fromkeys(path for sample in category.test for path in sample.masks)
    saturations = list(dict.fromkeys(sample.saturations for sample in category.test))
    return Fingerprint(
        settings,
        tuple(_stamp(category, path) for path in files),
        tuple(
            SampleStamp(
                category.name_of(sample.path),
                sample.defect,
                tuple(category.name_of(path) for path in sample.masks),
                saturations.index(sample.saturations),
            )
            for sample in category.test
        ),
        tuple(saturations),
        category.layout,
        colormap,
    )


def _stamp(category: Category, path: Path) -> FileStamp:
    try:
        status = path.stat()
    except FileNotFoundError:  # a list may name what is not there; whoever reads it says so
        return FileStamp(category.name_of(path), -1, -1)
    return FileStamp(category.name_of(path), status.st_size, status.st_mtime_ns)


def write_roc(records: Sequence[Record], path: Path) -> None:
    """Draw the ROC curves of a benchmark, of the first seed of each category, into a file.

    Without a category there is no file.
    """
    if not records:
        path.unlink(missing_ok=True)
        return
    found: dict[str, dict[str, Curve]] = {"image": {}, "pixel": {}}
    for record in records:
        for kind, axes in (("image", record.curves.image), ("pixel", record.curves.pixel)):
            auroc = record.row.metrics[f"{kind}_auroc"]
            if auroc is not None:
                found[kind].setdefault(plain_text(record.row.category), (*axes, auroc))
    with write_whole(path) as unfinished:
        unfinished.write_bytes(encode_png(draw_roc(found["image"], found["pixel"])))
