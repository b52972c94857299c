"""What a model says of itself, read and checked, and changed in a graph's file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from padim.errors import ModelFileError, ModelFileVersionError
from padim.files import written_whole
from padim.images.preprocess import Preprocess
from padim.scoring.calibration import Calibration
from padim.scoring.engines import ENGINES, engines_of

GRAPH_VERSION = 1


@dataclass(frozen=True)
class Description:
    """What a model says of itself.

    Attributes:
        preprocess: The way from an image to the network.
        calibration: How good images score, if that is known.
        camera_px: (height, width) of the only images it takes, when its graph resizes them itself.
        facts: All of it as plain data, as ``docs/format.md`` lists it.
    """

    preprocess: Preprocess
    calibration: Calibration | None
    camera_px: tuple[int, int] | None
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, text: str, path: Path) -> "Description":
        """Read what a graph says.

        Args:
            text: What it says.
            path: Its file, for messages.

        Raises:
            ModelFileError: It cannot be understood.
            ModelFileVersionError: A newer release wrote it.
        """
        try:
            facts = json.loads(text)
            graph_version = int(facts["graph_version"])
            if graph_version <= GRAPH_VERSION:
                camera_px, calibration = facts["camera_px"], facts.get("calibration")
                return cls(
                    Preprocess.from_json(facts["preprocess"]),
                    Calibration.from_json(calibration) if calibration else None,
                    (camera_px[0], camera_px[1]) if camera_px else None,
                    facts,
                )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ModelFileError(
                f"{path} describes itself in a way that cannot be read. Copy it or export it again."
            ) from error
        raise ModelFileVersionError(
            f"{path} has the graph version {graph_version}, but this release reads up to "
            f"{GRAPH_VERSION}. Install the release that wrote it, or a newer one."
        )

    def calibrated(self, calibration: Calibration) -> "Description":
        """The same with another calibration."""
        facts = {**self.facts, "calibration": calibration.to_json()}
        return replace(self, calibration=calibration, facts=facts)

    def words(self) -> str:
        """What model it is, in one line."""
        height, width = self.preprocess.size_px
        return (
            f"{self.facts['backbone']['name']}, {self.facts['recipe']['name']} recipe, "
            f"{height}x{width} px, fitted on {self.facts['count']} images"
        )


def write_description(path: Path, text: str) -> None:
    """Replace what a graph says under the key ``padim``, whole or not at all.

    Args:
        path: A file that ``padim export`` wrote; files beside it stay.
        text: What it is to say.

    Raises:
        ModelFileError: It says nothing so far.
    """
    content = ENGINES[engines_of(path)[0]].load().with_description(path, text)
    if content is None:
        raise no_model(path)
    with written_whole(path) as partial:
        partial.write_bytes(content)


def no_model(path: Path) -> ModelFileError:
    """What to say of a graph that is no model."""
    return ModelFileError(f"{path} is a graph, but no model. Name one that padim export wrote.")
