"""A fit by workers: shards of the images are looked at wherever there is room, and merged in order.

How many shards there are depends on the images alone, so that the model has the same bytes whoever
the workers are, and however many.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from padim.errors import DatasetError, ImageReadError
from padim.files import sha256
from padim.fitting import looks, shards
from padim.fitting.begun import Begun, DamagedError
from padim.fitting.fitter import Fitter
from padim.fitting.looks import Begin, Fitted, Unreadable
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.fitting.shard_images import choose_images
from padim.images.ahead import content_sha256, hash_all
from padim.model.file import load_state
from padim.model.pair import load_pair, moments_path
from padim.model.shard_file import Shard, ShardLook, find_number, save_scores
from padim.temporary import TemporaryFolder
from padim.workers.protocol import Shared, Tell, Workers, take_result

T = TypeVar("T")
R = TypeVar("R")

N_SHARDS = 16
SHARD_IMAGES = 1000  # of a shard, where there are more of them
_HASHED = 64  # images in a piece of work


class _Part(NamedTuple):
    """A shard to look at, of these images and their sha256."""

    shard: Shard
    images: dict[Path, str]


class _Hashed(NamedTuple):
    """The sha256 of images, and those that could not be read and why."""

    digests: dict[Path, str]
    unreadable: list[tuple[str, str]]


class _Look(NamedTuple):
    """The first look at a shard, None without an image, and what could not be read, and why."""

    look: ShardLook | None
    unreadable: list[tuple[str, str]]


@dataclass(frozen=True)
class _First:
    """What a first look needs beside the images."""

    settings: FitSettings
    source_px: tuple[int, int] | None
    skip_unreadable: bool


class _Step(NamedTuple):
    """Second looks to take, and to merge."""

    model: Path  # whose images are looked at
    kind: str  # of the files of what comes out
    out: Path  # the model that has a threshold
    drop_outliers: float

    def name(self, part: _Part) -> str:
        return f"{part.shard.number}.{self.kind}"


@dataclass(frozen=True)
class _Second:
    """What a second look needs beside the images: files of a model and of its moments."""

    model: bytes
    moments: bytes
    weights: str | Path | None
    n_threads: int | None
    drop_outliers: float


def count_shards(hashes: Sequence[str]) -> int:
    """How many shards there are of images of these sha256, each of which has one at least."""
    n_shards = max(N_SHARDS, len(hashes) // SHARD_IMAGES)
    while n_shards > 1 and len({find_number(one, n_shards) for one in hashes}) < n_shards:
        n_shards //= 2
    return n_shards


def fit_by(
    workers: Workers,
    images: Sequence[Path],
    settings: FitSettings,
    source_px: tuple[int, int] | None,
    folder: Path,
    begin: Begin = looks.no_progress,
    unreadable: Unreadable | None = None,
) -> Fitted:
    """Fit on good images, as ``padim fit --shard`` of each shard and ``padim merge`` do.

    Args:
        workers: Who looks; they read the images by their paths.
        images: What to fit on.
        settings: Every choice of the fit.
        source_px: As for ``prepare``.
        folder: Where the files of shards are, and what the result is read from. The same fit that
            was stopped goes on with what is there of it.
        begin: Told of each phase and its number of steps; gives what is told of each step.
        unreadable: Told of an image that cannot be read, which is then left out; raised when None.

    Raises:
        PadimError: It cannot be done, or a worker has died each time that it did some of it.
    """
    hashes: dict[Path, str] = {}
    chunks = [tuple(images[i : i + _HASHED]) for i in range(0, len(images), _HASHED)]
    advance = begin("hash", len(images))
    for chunk, hashed in _do_all(workers, _hash, chunks, lambda told: None):
        _tell_unreadable(hashed.unreadable, unreadable)
        hashes.update(hashed.digests)
        advance(len(chunk))
    if not hashes:
        raise DatasetError(looks.NO_IMAGE)
    n_shards = count_shards(list(hashes.values()))
    parts = [
        _Part(shard, choose_images(list(hashes), shard, hashes))
        for shard in (Shard(number, n_shards) for number in range(1, n_shards + 1))
    ]
    begun = Begun(folder, settings, (source_px, *sorted(hashes.values())))
    told: set[str] = set()

    def tell(error: ImageReadError) -> None:
        if unreadable is not None and str(error.path) not in told:
            told.add(str(error.path))
            unreadable(error)

    hear = None if unreadable is None else tell
    work = partial(_go_on, workers, parts, settings, source_px, begun, begin, hear)
    try:
        return work()
    except DamagedError:
        begun.clear()
        return work()


def _go_on(
    workers: Workers,
    parts: Sequence[_Part],
    settings: FitSettings,
    source_px: tuple[int, int] | None,
    begun: Begun,
    begin: Begin,
    unreadable: Unreadable | None,
) -> Fitted:
    """Do what is not done yet of a fit."""
    _tell_unreadable(begun.list_unreadable(), unreadable)
    if not begun.has_done("merge"):
        given = workers.put(_First(settings, source_px, unreadable is not None))
        _merge(workers, parts, given, begun, begin, unreadable)
        begun.sum.solve(begun.name("merged"), weights=settings.weights, begin=begin)
        begun.mark("merge")
    begun.drop_sum()
    model = begun.name("merged")
    fitted = Fitted(load_state(model), ())
    if settings.calibrate and fitted.state.count > 1:
        step = _Step(model, "scores", begun.name("judged"), settings.drop_outliers)
        fitted = _judge(workers, parts, settings, begun, step, begin)
        if fitted.dropped:
            step = _Step(step.out, "again", begun.name("left"), 0.0)
            again = _judge(workers, parts, settings, begun, step, begin)
            fitted = replace(fitted, state=again.state)
        model = step.out
    if settings.keep_moments:
        fitted = replace(fitted, moments=load_pair(model)[1])
    return fitted


def _merge(
    workers: Workers,
    parts: Sequence[_Part],
    given: Shared[_First],
    begun: Begun,
    begin: Begin,
    unreadable: Unreadable | None,
) -> None:
    """Take the first looks that are not there, and add up all in the order of their shards."""
    waiting = [part for part in parts if not begun.has_look(part.shard.number)]
    hear = _Steps(begin("fit", sum(len(part.images) for part in parts)))
    hear.tell_done(parts, waiting)
    with closing(_do_all(workers, partial(_look, given=given), waiting, hear)) as found:
        try:
            while begun.sum.number < len(parts):
                if not begun.add_kept():
                    part, look = next(found)
                    _tell_unreadable(look.unreadable, unreadable)
                    begun.take_look(part.shard.number, look.look, look.unreadable)
        except BaseException:
            with suppress(OSError):  # what went wrong is said, and it costs some looks
                begun.save_sum()
            raise


def _judge(
    workers: Workers,
    parts: Sequence[_Part],
    settings: FitSettings,
    begun: Begun,
    step: _Step,
    begin: Begin,
) -> Fitted:
    """Take the second looks at the shards of a model that are not there, and merge all."""
    state, digest = load_state(step.model), sha256(step.model)
    there = {find_number(one, parts[0].shard.n_shards) for one in state.image_sha256}
    looked = [part for part in parts if part.shard.number in there]
    waiting = [
        part for part in looked if not begun.has_scores(step.name(part), digest, step.drop_outliers)
    ]
    given = workers.put(
        _Second(
            step.model.read_bytes(),
            moments_path(step.model).read_bytes(),
            settings.weights,
            settings.n_threads,
            step.drop_outliers,
        )
    )
    hear = _Steps(begin("second look", state.count))
    hear.tell_done(looked, waiting)
    for part, look in _do_all(workers, partial(_look_again, given=given), waiting, hear):
        begun.keep(step.name(part), look)
    paths = [begun.name(step.name(part)) for part in looked]
    return shards.merge_scores(step.model, paths, step.out, weights=settings.weights, begin=begin)


def _do_all(
    workers: Workers,
    work: Callable[[T, Tell], R],
    items: Sequence[T],
    hear: Callable[[Any], None],
) -> Generator[tuple[T, R], None, None]:
    """Do work with each of some items, none of which may fail; what each gave, as they end."""
    with closing(workers.map(work, items, hear)) as ended:
        for one in ended:
            yield one.item, take_result(one)


class _Steps:
    """Hears how many steps of each shard are done, also of one that is begun anew."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._done: dict[int, int] = {}

    def __call__(self, told: tuple[int, int]) -> None:
        number, n_done = told
        self._advance(n_done - self._done.get(number, 0))
        self._done[number] = n_done

    def tell_done(self, parts: Sequence[_Part], waiting: Sequence[_Part]) -> None:
        """Tell of the shards that are not waiting."""
        self._advance(
            sum(len(part.images) for part in parts) - sum(len(one.images) for one in waiting)
        )


def _tell_unreadable(found: Iterable[tuple[str, str]], unreadable: Unreadable | None) -> None:
    """Tell of images that a worker could not read, and why; the first is raised when None."""
    for path, reason in found:
        error = ImageReadError(path, reason)
        if unreadable is None:
            raise error
        unreadable(error)


def _hash(paths: Sequence[Path], _tell: Tell) -> _Hashed:
    found = dict(zip(paths, hash_all(paths, _try_hash), strict=True))
    return _Hashed(
        {path: one for path, one in found.items() if isinstance(one, str)},
        [(str(path), one.reason) for path, one in found.items() if not isinstance(one, str)],
    )


def _try_hash(path: Path) -> str | ImageReadError:
    try:
        return content_sha256(path)
    except ImageReadError as error:
        return error


def _telling(tell: Tell, part: _Part, phase: str) -> Begin:
    """Tell how many images of a shard a phase has seen, and nothing of other phases."""

    def begin(name: str, _n_steps: int) -> Callable[[int], None]:
        n_done = 0

        def advance(n: int) -> None:
            nonlocal n_done
            n_done += n
            tell((part.shard.number, n_done))

        return advance if name == phase else lambda n: None

    return begin


def _look(part: _Part, tell: Tell, *, given: Shared[_First]) -> _Look:
    """Take the first look at a shard, as a worker."""
    left_out: list[tuple[str, str]] = []
    unreadable: Unreadable | None = None
    if given.get().skip_unreadable:

        def unreadable(error: ImageReadError) -> None:
            left_out.append((str(error.path), error.reason))

    begin = _telling(tell, part, "fit")
    try:
        found = shards.look_at_shard(_prepare(given), part.images, part.shard, begin, unreadable)
    except DatasetError:
        if len(left_out) < len(part.images):
            raise
        return _Look(None, left_out)  # there is no image to look at
    return _Look(found, left_out)


def _look_again(part: _Part, tell: Tell, *, given: Shared[_Second]) -> bytes:
    """Take the second look at a shard, as a worker; its file."""
    second, drop_outliers, _ = _open(given)
    begin = _telling(tell, part, "second look")
    found = second.look(part.images, part.shard, drop_outliers, begin)
    with TemporaryFolder() as folder:
        path = folder / "scores.safetensors"
        save_scores(found, second.state, path)
        return path.read_bytes()


@lru_cache(1)  # for the next shard that this worker looks at
def _prepare(given: Shared[_First]) -> Fitter:
    first = given.get()
    return prepare(first.settings, source_px=first.source_px)


@lru_cache(1)
def _open(given: Shared[_Second]) -> tuple[shards.SecondLook, float, TemporaryFolder]:
    """What takes the second looks, the rate of outliers to drop, and the folder it may read on."""
    second, folder = given.get(), TemporaryFolder()
    path = folder.path / "model.safetensors"
    path.write_bytes(second.model)
    moments_path(path).write_bytes(second.moments)
    opened = shards.SecondLook.open(path, second.weights, second.n_threads)
    return opened, second.drop_outliers, folder
