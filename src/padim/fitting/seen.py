"""What is kept of the images that a fit has looked at: values that merge."""

import heapq
from collections.abc import Set
from dataclasses import dataclass
from functools import reduce
from operator import attrgetter
from pathlib import Path

from padim.errors import DatasetError
from padim.images.ahead import Loaded
from padim.images.camera import CameraFacts, MeanImage, Snapshot
from padim.images.facts import ImageFacts
from padim.images.thumbnails import Look
from padim.scoring.parity import N_SAMPLES


@dataclass(frozen=True)
class Seen:
    """Images that a first look saw."""

    start: int  # place of the first among all images
    hashes: tuple[str, ...] = ()  # the sha256 of each
    paths: tuple[Path | None, ...] = ()  # of each; None for one given as pixels
    thumbnails: tuple[Look, ...] = ()  # of each, when they are to be reviewed
    samples: tuple[Loaded, ...] = ()  # a few that may travel with the model, when wanted
    facts: ImageFacts | None = None  # what they were like; unknown of older models
    facts_of_each: tuple[ImageFacts, ...] = ()  # what each was like
    snapshots: tuple[Snapshot, ...] = ()  # of each, as thumbnails

    def add(
        self, batch: list[Loaded], *, with_thumbnails: bool, with_samples: bool = False
    ) -> "Seen":
        """These and images that were looked at after them."""
        looked = batch if with_thumbnails else []
        facts = tuple(map(ImageFacts.of, batch))
        new = Seen(
            self.start + len(self.hashes),
            tuple(image.sha256 for image in batch),
            tuple(image.path for image in batch),
            tuple(Look.of(image.pixels, image.source_px) for image in looked),
            tuple(batch if with_samples else ()),
            reduce(ImageFacts.merge, facts),
            facts,
            tuple(Snapshot.of(image.pixels) for image in looked),
        )
        return self.merge(new)

    def merge(self, other: "Seen") -> "Seen":
        """These and those that come after them.

        Raises:
            DatasetError: The others do not begin where these end.
        """
        if other.start != self.start + len(self.hashes):
            raise DatasetError(
                f"One part of the images ends before number {self.start + len(self.hashes)}, but "
                f"the next begins with {other.start}. Merge the looks at all parts, each once."
            )
        # Any choice of samples would do that depends on nothing but the images.
        samples = heapq.nsmallest(N_SAMPLES, self.samples + other.samples, attrgetter("sha256"))
        return Seen(
            self.start,
            self.hashes + other.hashes,
            self.paths + other.paths,
            self.thumbnails + other.thumbnails,
            tuple(samples),
            self._merge_facts(other),
            self.facts_of_each + other.facts_of_each,
            self.snapshots + other.snapshots,
        )

    def without(self, places: Set[int]) -> "Seen":
        """Those that are left without the images of these places, the first of all being 0."""
        left = [i for i in range(len(self.hashes)) if i not in places]
        gone = {self.hashes[i] for i in places}
        thumbnails = self.thumbnails and tuple(self.thumbnails[i] for i in left)
        return Seen(
            self.start,
            tuple(self.hashes[i] for i in left),
            tuple(self.paths[i] for i in left),
            thumbnails,
            tuple(image for image in self.samples if image.sha256 not in gone),
            reduce(ImageFacts.merge, (self.facts_of_each[i] for i in left)),
            tuple(self.facts_of_each[i] for i in left),
            self.snapshots and tuple(self.snapshots[i] for i in left),
        )

    def _merge_facts(self, other: "Seen") -> ImageFacts | None:
        if not self.hashes or not other.hashes:
            return self.facts or other.facts
        return self.facts.merge(other.facts) if self.facts and other.facts else None

    def compare_cameras(self, *, may_travel: bool) -> tuple[list[CameraFacts], MeanImage | None]:
        """What each image says of the camera, and the mean image that shifts are measured by.

        Each image is compared with the mean of the others. Where images may not travel with the
        model there is no mean image, nor shifts.
        """
        mean_image = (
            MeanImage.of(self.snapshots) if may_travel and len(self.snapshots) > 1 else None
        )
        if mean_image is None:
            return [one.facts for one in self.snapshots], None
        return MeanImage.compare_each(self.snapshots), mean_image
