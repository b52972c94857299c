"""What decides the features of an image, and so whether two models can be compared or joined."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from padim.backbones import BackboneSpec
from padim.images.preprocess import Preprocess
from padim.images.reading import AS_IT_IS
from padim.method.pyramid import Pyramid
from padim.method.tiles import Tiling
from padim.scoring.engines import ENGINES
from padim.versions import read_versions


class Engine(NamedTuple):
    """Who runs a network."""

    name: str  # a key of ENGINES
    version: str = ""  # empty for torch, which is among the packages that decide numbers

    @classmethod
    def find(cls, name: str) -> "Engine":
        """The one of this name that is installed here."""
        return cls(name, "" if name == "torch" else ENGINES[name].version())

    @classmethod
    def parse(cls, text: str) -> "Engine":
        """Read what ``str`` writes, such as ``onnxruntime 1.32.0``."""
        return cls(*text.split(" ", 1))

    def __str__(self) -> str:
        return " ".join(filter(None, self))


@dataclass(frozen=True)
class Encoder:
    """What decides the features of an image: where two are equal, so are the features."""

    spec: BackboneSpec
    tiling: Tiling  # what the network sees of an image at a time, and which cells are modelled
    preprocess: Preprocess  # the way from an image to the network
    engine: Engine  # who runs the trunk
    precision: str  # what the trunk computes in, float32 or bfloat16
    weights_sha256: str  # of the file the backbone's weights came from
    versions: Mapping[str, str]  # packages that decide numbers
    mirrored: bool = False  # features are the mean of the image's and of its mirror image's

    @property
    def pyramid(self) -> Pyramid:
        """The modelled cells."""
        return self.tiling.pyramid

    def here(self, engine: str) -> "Encoder":
        """The same with what is installed here, run by an engine of this name."""
        return replace(self, engine=Engine.find(engine), versions=read_versions())

    def of_window(self) -> "Encoder":
        """The same for one part of an image, all cells of which are modelled."""
        window_px = self.tiling.window_px
        tiling = Tiling.whole(self.tiling.tiles[0].pyramid, window_px)
        preprocess = replace(self.preprocess, size_px=window_px, roi=None, reading=AS_IT_IS)
        return replace(self, tiling=tiling, preprocess=preprocess)

    def differences(self, other: "Encoder") -> dict[str, tuple[object, object]]:
        """What each has of a package, ``engine`` or what else is not the same in another."""
        ours, theirs = (
            {
                "backbone": one.spec,
                "weights": one.weights_sha256,
                "preprocess": one.preprocess,
                "pyramid": one.tiling,
                "precision": one.precision,
                "mirror": one.mirrored,
                **one.versions,
                "engine": one.engine,
            }
            for one in (self, other)
        )
        both = {name: (ours.get(name), theirs.get(name)) for name in {**ours, **theirs}}
        return {name: (one, two) for name, (one, two) in both.items() if one != two}
