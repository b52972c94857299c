"""What a run of ``padim predict`` has found so far."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from padim.cli.console import Output, table
from padim.errors import format_count
from padim.scoring.prediction import Decision, PredictionRecord

_SHOWN = 10
_MANY = 20  # images that are all alien are hardly all defective


class Tally:
    """Counts predictions and keeps those that are shown: the hottest, unless all are.

    Args:
        decision: Where normal ends, if it is known.
        fitted: The sha256 of the images of the fit.
        keeps_all: Whether all are kept.
    """

    def __init__(
        self, decision: Decision | None, fitted: frozenset[str], *, keeps_all: bool
    ) -> None:
        self.decision = decision
        self.fitted = fitted
        self.keeps_all = keeps_all
        self.records: list[PredictionRecord] = []
        # How images differ from those of the fit, and how many do so
        self.differences: Counter[tuple[str, ...]] = Counter()
        self.n_images = self.n_anomalous = self.n_alien = self.n_fitted = 0

    def note(self, differences: tuple[str, ...]) -> None:
        """Note how an image differs from those of the fit."""
        self.differences[differences] += 1

    def add(self, record: PredictionRecord) -> None:
        """Count a row, and keep it if it is shown."""
        self.records.append(record)
        if len(self.records) > 2 * _SHOWN and not self.keeps_all:
            self.records = self.hottest()
        self.n_images += 1
        self.n_fitted += record.origin is not None and record.origin.image_sha256 in self.fitted
        self.n_anomalous += record.label == "anomalous"
        if self.decision is not None and record.p_value is not None:
            self.n_alien += record.p_value <= self.decision.calibration.least_p_value

    @property
    def all_alien(self) -> bool:
        """Whether many images, and all, are as unlike the good ones as can be."""
        return self.n_alien == self.n_images >= _MANY

    def document(self) -> dict[str, object]:
        """What is counted, for JSON."""
        return {
            "n_images": self.n_images,
            "n_anomalous": self.n_anomalous if self.decision else None,
            "threshold": asdict(self.decision.threshold) if self.decision else None,
            "pixel_threshold": self.decision and self.decision.pixel_threshold,
        }

    def words(self) -> str:
        """What is counted, and a table of the hottest."""
        cells = [
            (
                record.path or "",
                f"{record.score:.3f}",
                f"{record.hottest.peak_x},{record.hottest.peak_y}",
                "" if record.label is None else f"{record.label}, p {record.p_value:.2g}",
            )
            for record in self.hottest()
        ]
        count = format_count(self.n_images, "image")
        if self.decision is not None:
            verb = "is" if 1 in (self.n_images, self.n_anomalous) else "are"
            count = f"{self.n_anomalous} of {count} {verb} anomalous"
        most = ". The most anomalous" if self.n_images > _SHOWN else ""
        return f"{count}{most}:\n{table(('path', 'score', 'peak x,y', 'label'), cells)}"

    def hottest(self) -> list[PredictionRecord]:
        """The rows of the highest scores."""
        return sorted(self.records, key=lambda record: -record.score)[:_SHOWN]


@contextmanager
def saying_how_far(tally: Tally, n_images: int) -> Iterator[None]:
    """Say, when the work is stopped, how far it has come."""
    try:
        yield
    except BaseException:
        if tally.n_images:
            Output.advice = (
                f"{tally.n_images} of {n_images} images are done: the same command goes on."
            )
        raise
