"""What a model says of itself, read and checked, and changed in a graph's file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from padim.errors import ModelFileError, ModelFileVersionError, format_count
from padim.images.facts import ImageFacts
from padim.images.preprocess import Preprocess
from padim.scoring.calibration import Calibration

GRAPH_VERSION = 2  # the first that has a seal


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
        try:
            facts = json.loads(text)
            graph_version = int(facts["graph_version"])
            if graph_version < 1:
                raise ValueError
            if graph_version <= GRAPH_VERSION:
                camera_px, calibration = facts["camera_px"], facts.get("calibration")
                return cls(
                    Preprocess.from_json(facts["preprocess"]),
                    Calibration.from_json(calibration) if calibration else None,
                    (camera_px[0], camera_px[1]) if camera_px else None,
                    facts,
                    ImageFacts.from_json(facts["images"]) if "images" in facts else None,
                )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ModelFileError(
                f"{path} describes itself in a way that cannot be read. Copy it or export it again."
            ) from error
        raise ModelFileVersionError(
            f"{path} has the graph version {graph_version}, but this release reads up to "
            f"{GRAPH_VERSION}. Install the release that wrote it, or a newer one."
        )

    def calibrate(self, calibration: Calibration) -> "Description":
        """The same with another calibration."""
        facts = {**self.facts, "calibration": calibration.to_json()}
        return replace(self, calibration=calibration, facts=facts)

    def words(self) -> str:
        """What model it is, in one line."""
        height, width = self.preprocess.size_px
        return (
            f"{self.facts['backbone']['name']}, {self.facts['recipe']['name']} recipe, "
            f"{height}x{width} px, fitted on {format_count(self.facts['count'], 'image')}"
        )
