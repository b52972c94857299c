"""Images scored by workers: pieces of whole batches, or parts of the results of many images."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from padim.errors import ClusterError, ImageReadError
from padim.model.opening import load
from padim.scoring.bulk_part import Note, Packed, PartChoices, PartImages, score_part
from padim.scoring.journal import Journal
from padim.scoring.prediction import PredictionRecord
from padim.scoring.predictor import Predictor
from padim.scoring.writer import PredictionWriter, Written
from padim.temporary import TemporaryFolder
from padim.workers.protocol import Shared, Tell, Workers, take_result

_PIECE_BATCHES = 8

Row = tuple[PredictionRecord, tuple[str, ...]]  # and how the image differs from those of the fit


@dataclass(frozen=True)
class Opened:
    """What a worker opens a model by: the arguments of ``load`` and of ``Predictor.at``."""

    model: Path
    engine: str = "auto"
    n_threads: int | None = None
    precision: str | None = None
    weights: str | Path | None = None
    device: str = "auto"
    false_alarm_rate: float | None = None
    pixel_false_alarm_rate: float | None = None

    def open(self) -> Predictor:
        """Open it."""
        predictor = load(
            self.model,
            engine=self.engine,
            n_threads=self.n_threads,
            precision=self.precision,
            weights=self.weights,
            device=self.device,
        )
        return predictor.at(self.false_alarm_rate, self.pixel_false_alarm_rate)


@dataclass(frozen=True)
class _Model:
    """What a worker opens, and what it has to be when it is open."""

    opening: Opened
    origin: tuple[str | None, str, str]  # of a predictor


@dataclass(frozen=True)
class _Choices:
    """What is wanted of each image."""

    overlays: bool
    maps: str | None
    min_region_px: int
    kept_px: int
    skip_unreadable: bool


class _Piece(NamedTuple):
    """Images to score together, and the names of their pictures."""

    number: int
    names: Mapping[Path, Path]


class _Scored(NamedTuple):
    """What a worker gives of an image."""

    written: Written
    pictures: list[bytes]  # of the files that were written
    differences: tuple[str, ...]  # of the image from those of the fit


class _PackedPart(NamedTuple):
    """What a worker gives of a part."""

    packed: Packed
    differences: list[tuple[str, ...]]  # of each image that was scored from those of the fit


class _Found(NamedTuple):
    """What a worker gives of a piece."""

    scored: list[_Scored]
    unreadable: list[tuple[str, str]]  # images, and why


@dataclass(frozen=True)
class Scorers:
    """Workers that score images by a model.

    Attributes:
        workers: They read the images and the model by their paths.
        opening: What they open the model by.
    """

    workers: Workers
    opening: Opened

    def predict(
        self,
        paths: Sequence[Path],
        names: Mapping[Path, Path],
        predictor: Predictor,
        writer: PredictionWriter,
        journal: Journal,
        unreadable: Callable[[ImageReadError], None] | None = None,
        *,
        kept_px: int = 0,
    ) -> Iterator[Row]:
        """Score images into a folder, as ``PredictionWriter.write`` does with what was scored here.

        Args:
            paths: The images.
            names: Of the pictures of each image, and maybe of others.
            predictor: The same model, opened here.
            writer: What is written of each image, and where.
            journal: Takes the rows.
            unreadable: Told of an image that cannot be read, which is then left out; raised when
                None.
            kept_px: As for ``Predictor.stream``.

        Yields:
            The row of each image, in their order, and how it differs from those of the fit.

        Raises:
            PadimError: It cannot be done, or a worker has died each time that it did some of it.
            OSError: The disk is full, say; what is written until then stays.
        """
        given = self._put(predictor)
        choices = _Choices(
            writer.overlays, writer.maps, writer.min_region_px, kept_px, unreadable is not None
        )
        score = partial(_score, given=given, choices=choices)
        pieces = _cut(paths, names, predictor.n_batch * _PIECE_BATCHES)
        waiting: dict[int, list[tuple[Written, tuple[str, ...]]]] = {}
        n_done = 0
        with closing(self.workers.map(score, pieces, lambda told: None)) as ended:
            for one in ended:
                found = take_result(one)
                for path, reason in found.unreadable:
                    assert unreadable is not None
                    unreadable(ImageReadError(path, reason))
                # Pictures are large, and do not wait for those of earlier images.
                waiting[one.item.number] = [
                    (writer.place(scored.written, scored.pictures, journal), scored.differences)
                    for scored in found.scored
                ]
                while n_done in waiting:
                    for written, differences in waiting.pop(n_done):
                        record = replace(written.record, decision=predictor.decision)
                        yield writer.note(written._replace(record=record), journal), differences
                    n_done += 1

    def pack_parts(
        self, predictor: Predictor, parts: Iterable[PartImages], choices: PartChoices, note: Note
    ) -> Iterator[Packed]:
        """Score parts of the results of many images, and give them as they end.

        Args:
            predictor: The same model, opened here.
            parts: Their images.
            choices: What is wanted of them.
            note: Told of each image how it differs from those of the fit.

        Raises:
            PadimError: It cannot be done, or a worker has died each time that it did some of it.
        """
        pack = partial(_pack, given=self._put(predictor), choices=choices)
        with closing(self.workers.map(pack, parts, lambda told: None)) as ended:
            for one in ended:
                found = take_result(one)
                for differences in found.differences:
                    note(differences)
                rows = tuple(
                    (index, replace(record, decision=predictor.decision))
                    for index, record in found.packed.part.rows
                )
                yield found.packed._replace(part=replace(found.packed.part, rows=rows))

    def _put(self, predictor: Predictor) -> Shared[_Model]:
        return self.workers.put(_Model(self.opening, predictor.origin))


def _cut(paths: Sequence[Path], names: Mapping[Path, Path], n_images: int) -> Iterator[_Piece]:
    for number, first in enumerate(range(0, len(paths), n_images)):
        yield _Piece(number, {path: names[path] for path in paths[first : first + n_images]})


def _score(piece: _Piece, _tell: Tell, *, given: Shared[_Model], choices: _Choices) -> _Found:
    """Score and draw the images of a piece, as a worker."""
    predictor = _open(given)
    left_out: list[tuple[str, str]] = []
    unreadable: Callable[[ImageReadError], None] | None = None
    if choices.skip_unreadable:

        def unreadable(error: ImageReadError) -> None:
            left_out.append((str(error.path), error.reason))

    scored: list[_Scored] = []
    with TemporaryFolder() as folder:
        writer = PredictionWriter(
            folder,
            lambda prediction: piece.names[prediction.path or Path()],
            choices.overlays,
            choices.maps,
            choices.min_region_px,
        )
        found = predictor.stream(piece.names, unreadable, kept_px=choices.kept_px, traced=True)
        for prediction in found:
            written = writer.write_one(prediction)
            written = written._replace(record=_without_decision(written.record))
            pictures = [(folder / place).read_bytes() for place in written.files]
            for place in written.files:
                (folder / place).unlink()
            scored.append(_Scored(written, pictures, prediction.differences))
    return _Found(scored, left_out)


def _pack(
    images: PartImages, _tell: Tell, *, given: Shared[_Model], choices: PartChoices
) -> _PackedPart:
    """Score the images of a part, as a worker."""
    noted: list[tuple[str, ...]] = []
    packed = score_part(_open(given), images, choices, noted.append).pack(choices)
    rows = tuple((index, _without_decision(record)) for index, record in packed.part.rows)
    return _PackedPart(packed._replace(part=replace(packed.part, rows=rows)), noted)


def _without_decision(record: PredictionRecord) -> PredictionRecord:
    """A row that travels: its thresholds are known where it goes, and as large as many rows."""
    return replace(record, decision=None)


@lru_cache(1)  # for the next piece that this worker scores
def _open(given: Shared[_Model]) -> Predictor:
    """Open the model, and make sure that it is the one that was opened where rows are written."""
    known = given.get()
    predictor = known.opening.open()
    if predictor.origin != known.origin:
        ours, theirs = (", ".join(map(str, one)) for one in (predictor.origin, known.origin))
        raise ClusterError(
            f"A worker has {known.opening.model} and releases as {ours}, but needs {theirs}. Let "
            "all machines have the same."
        )
    return predictor
