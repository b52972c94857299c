"""What a model says of itself, read and checked, and changed in a graph's file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from padim.documents import Document
from padim.errors import ModelFileError, ModelFileVersionError, format_count
from padim.images.facts import ImageFacts
from padim.images.preprocess import Preprocess
from padim.scoring.calibration import Calibration
from padim.scoring.facts import GraphFacts
from padim.scoring.parity import Samples

GRAPH_VERSION = 3  # the newest; what needs no more is written as version 2, which has a seal


@dataclass(frozen=True)
class _Version:
    graph_version: Annotated[int, Meta(ge=1, le=1 << 48)]


@dataclass(frozen=True)
class Description:
    """What a model says of itself."""

    preprocess: Preprocess
    calibration: Calibration | None
    camera_px: tuple[int, int] | None  # of the only images it takes, if its graph resizes them
    facts: Mapping[str, Any]  # all of it as plain data, as docs/format.md lists it
    images: ImageFacts | None = None  # what those of the fit were like; None in older models

    @classmethod
    def read(cls, text: str, path: Path) -> "Description":
        """Read what the graph of a file says.

        Raises:
            ModelFileError: It cannot be understood.
            ModelFileVersionError: A newer release wrote it.
        """
        document = describe(path)
        data = document.parse(text)
        version = document.restore(data, _Version).graph_version
        if version > GRAPH_VERSION:
            raise ModelFileVersionError(
                f"{path} has the graph version {version}, but this release reads up to "
                f"{GRAPH_VERSION}. Install the release that wrote it, or a newer one."
            )
        facts = document.restore(data, GraphFacts)
        calibration = None if facts.calibration is None else facts.calibration.calibration()
        return cls(facts.preprocess, calibration, facts.camera_px, data, facts.images)

    @property
    def has_verdict(self) -> bool:
        """Whether its graph judges as well, by the calibration that it was exported with."""
        return bool(self.facts.get("verdict"))

    def calibrate(self, calibration: Calibration) -> "Description":
        """The same with another calibration."""
        facts = {**self.facts, "calibration": calibration.to_json()}
        return replace(self, calibration=calibration, facts=facts)

    @property
    def is_mirrored(self) -> bool:
        """Whether the network sees each image twice."""
        return bool(self.facts["recipe"].get("mirrored"))

    @property
    def n_level_scores(self) -> int:
        """Scores of levels that an image gets."""
        has_coarse = self.facts["recipe"].get("coarse_scale", 0) > 0
        return len(self.facts["levels"]) + bool(has_coarse)

    def read_samples(self, path: Path) -> Samples | None:
        """The samples that the graph of a file brings; None when it brings none.

        Raises:
            ModelFileError: They cannot be read.
        """
        if not self.facts["samples"]:
            return None
        try:
            return describe(path).restore(self.facts, GraphFacts).read_samples()
        except ValueError as error:
            raise ModelFileError(
                f"{path} brings samples that cannot be read. Copy it or export it again."
            ) from error

    def words(self) -> str:
        """What model it is, in one line."""
        height, width = self.preprocess.size_px
        return (
            f"{self.facts['backbone']['name']}, {self.facts['recipe']['name']} recipe, "
            f"{height}x{width} px, fitted on {format_count(self.facts['count'], 'image')}"
        )


def describe(path: Path) -> Document:
    """What a graph says of itself, as a document."""
    origin = f"{path} describes itself in a way that"
    return Document(origin, ModelFileError, "Copy it or export it again.")
