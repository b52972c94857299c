"""What the images of a fit were like, to say of others how they differ."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from padim.errors import format_count
from padim.images.ahead import Loaded
from padim.images.reading import FULL_WHITE, smallest_white

_Grey = Annotated[float, Meta(ge=0, le=255)]
_MARGIN_LEVELS = 16  # of mean grey levels, beyond as much as the images of the fit differ


@dataclass(frozen=True)
class ImageFacts:
    """What images were like together.

    Attributes:
        kinds: Their depths and whether they had colour, such as ``16-bit grey``, sorted.
        brightness: Lowest and highest mean grey level at network size, 0 to 255.
        highest: Highest value in files of 16 bits; 0 when there was none.
    """

    kinds: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]
    brightness: tuple[_Grey, _Grey]
    highest: Annotated[int, Meta(ge=0, le=FULL_WHITE)]

    @classmethod
    def of(cls, image: Loaded) -> "ImageFacts":
        """Of one image."""
        level = image.brightness
        highest = image.depth.highest if image.depth.is_deep else 0
        return cls((image.depth.kind,), (level, level), highest)

    def merge(self, other: "ImageFacts") -> "ImageFacts":
        """Of these images and others."""
        low, high = zip(self.brightness, other.brightness, strict=True)
        return ImageFacts(
            tuple(sorted({*self.kinds, *other.kinds})),
            (min(low), max(high)),
            max(self.highest, other.highest),
        )

    def compare(self, image: "ImageFacts") -> tuple[str, ...]:
        """Say how one image differs from these, in words that end a sentence; maybe not at all."""
        found = []
        (kind,), (level, _) = image.kinds, image.brightness
        if kind not in self.kinds:
            found.append(f"of {kind}, not {' or '.join(self.kinds)}")
        low, high = self.brightness
        margin = high - low + _MARGIN_LEVELS
        if level < low - margin:
            found.append("much darker than any good image")
        if level > high + margin:
            found.append("much brighter than any good image")
        return tuple(found)


def describe_depth(facts: ImageFacts | None, white: int) -> str:
    """Say whether the white of a fit suits its images of 16 bits; empty where it does."""
    if facts is None or not facts.highest:
        return ""
    if facts.highest > white:
        return (
            f"The 16-bit images go up to {facts.highest}, and what is above white, {white}, is "
            f"clipped. Fit with --white {smallest_white(facts.highest)}, or auto."
        )
    usual = smallest_white(facts.highest)
    if usual == FULL_WHITE or white < FULL_WHITE:
        return ""
    return (
        f"No 16-bit image goes above {facts.highest} of {FULL_WHITE}: most grey levels are lost, "
        f"as if the files held {usual.bit_length()} bits. Fit with --white {usual}, or auto."
    )


def describe_clipping(image: Loaded) -> tuple[str, ...]:
    """Say whether an image has values above white, in words that end a sentence."""
    depth = image.depth
    return (f"with values above white, {depth.white}",) if depth.n_above_white else ()


def describe_differences(images: Iterable[tuple[str, ...]]) -> str:
    """Say in a sentence how many of some images differ from those of a fit; empty when none do."""
    differing = list(images)
    counts = Counter(words for one in differing for words in one)
    if not counts:
        return ""
    n_differing, count = sum(map(bool, differing)), format_count(len(differing), "image")
    verb = "is" if n_differing == 1 else "are"
    words = "; ".join(f"{n} {words}" for words, n in counts.most_common())
    return (
        f"{n_differing} of {count} {verb} not like those of the fit: {words}. Check the camera and "
        "its light, or fit anew."
    )
