"""What is wrong with a category: what would falsify its numbers, and what is only odd."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from padim.datasets import Category, Sample
from padim.datasets.annotations import is_annotation, read_truth
from padim.datasets.category import GOOD
from padim.datasets.exports import find_seeming_truth
from padim.datasets.layouts import find_categories
from padim.errors import DatasetError, ImageReadError, format_count
from padim.images.ahead import content_sha256, map_within
from padim.images.decode import Hold, decode_stretched
from padim.images.masks import FLAWS
from padim.images.stream import fetch
from padim.images.thumbnails import Look, far_sizes, near_duplicates

KINDS: dict[str, str] = {
    "unreadable": "files that cannot be read",
    "leak": "one file in two splits",
    "look-alike": "one picture in two splits",
    "contradiction": "labels that contradict masks or each other",
    "mask-size": "masks of another size than their image",
    "empty-mask": "empty masks beside others of the image",
    **{flaw: f"masks that {words}" for flaw, (words, _) in FLAWS.items()},
    "no-mask": "defects without a mask",
    "stray-mask": "masks of no image",
    "duplicate": "repeated in one split",
    "one-class": "categories whose test images do not show both classes",
    "size": "images of odd size",
    "mode": "images of odd mode",
}
SEVERE = frozenset(
    {"unreadable", "leak", "look-alike", "contradiction", "mask-size", "inverted-mask", "grey-mask"}
)
DOUBTFUL = frozenset({"covering-mask", "box-mask"})  # which may make numbers wrong, or not

Value = TypeVar("Value", bound=Hashable)

_LOOK_PX = 64  # twice a thumbnail's side: rounding to whole levels averages out
_USUAL = 0.75  # share of images that a size or a mode needs for the others to be odd


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or odd."""

    kind: str  # one of `KINDS`
    path: Path
    detail: str  # what it is, in words
    other: Path | None = None  # the file that it repeats
    category: str = ""

    @property
    def is_severe(self) -> bool:
        """Whether it makes numbers wrong."""
        return self.kind in SEVERE


@dataclass(frozen=True)
class _SeenMask:
    """A mask that could be read."""

    path: Path
    size_px: tuple[int, int]  # (height, width)
    is_marked: bool
    flaws: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """An image and its masks, as far as they could be read."""

    split: str
    item: Sample
    sha256: str
    mode: str
    look: Look | None
    masks: tuple[_SeenMask, ...]
    errors: tuple[tuple[Path, str], ...]  # what could not be read, and why


def check(
    category: Category,
    n_threads: int,
    advance: Callable[[int], None] = lambda n_images: None,
) -> list[Finding]:
    """Read every image and mask of a category, and say what is wrong.

    Of each image some four kilobytes are kept, until the category is done.

    Returns:
        Findings, in the order of `KINDS`, then of their files.
    """
    seen = []
    for one in map_within(_see, _list_samples(category), n_threads, 4 * n_threads):
        seen.append(one)
        advance(1)
    readable = [one for one in seen if one.look is not None]
    has_masks = any(one.item.masks and one.item.is_anomalous for one in seen)
    found = [
        *(finding for one in seen for finding in _check_one(one, has_masks)),
        *(() if has_masks or not category.n_anomalous else [_tell_no_mask(category)]),
        *(Finding("stray-mask", path, "it is of no image") for path in category.unused_masks),
        *_find_missing_classes(category),
        *_find_repeated(readable),
        *_find_odd(readable),
    ]
    order = list(KINDS)
    found.sort(key=lambda finding: (order.index(finding.kind), finding.path))
    return [replace(finding, category=category.name) for finding in found]


def read_categories(
    data: Path, names: Sequence[str] = (), layout: str | None = None
) -> tuple[list[Category], list[Finding]]:
    """Read the categories of a dataset, as ``read_dataset`` does; those that cannot be, are found.

    Raises:
        PadimError: None can be read, or as ``find_categories`` says.
    """
    categories, findings = [], []
    errors: list[DatasetError | ImageReadError] = []
    for name, read in find_categories(data, names, layout).items():
        try:
            categories.append(read())
        except (DatasetError, ImageReadError) as error:
            errors.append(error)
            findings.append(Finding("unreadable", data, str(error), category=name))
    if not categories:
        raise errors[0]
    return categories, findings


def n_images(category: Category) -> int:
    """How many images `check` reads."""
    return len(category.train) + len(category.validation) + len(category.test)


def _tell_no_mask(category: Category) -> Finding:
    """No defect has a mask; there may be masks where none are looked for."""
    detail = f"none of {format_count(category.n_anomalous, 'defect')} has a mask"
    seeming = None if category.is_listed else find_seeming_truth(category)
    if seeming is None:
        words = f"{detail}, so that no metric of pixels can be had"
        if category.layout == "manifest":
            words += ". The column mask of a manifest names masks"
        return Finding("no-mask", category.root, words)
    words = (
        f"{detail}, but {category.name_of(seeming)} looks as if it held some: put them into "
        "ground_truth/<defect>/<stem>_mask.png"
    )
    return Finding("no-mask", category.root, words, seeming)


def _find_missing_classes(category: Category) -> Iterator[Finding]:
    absent = [
        kind
        for kind, count in (("normal", category.n_normal), ("anomalous", category.n_anomalous))
        if not count
    ]
    if absent:
        detail = f"no {' and no '.join(absent)} test images, so that AUROC cannot be had"
        yield Finding("one-class", category.root, detail)


def _list_samples(category: Category) -> Iterator[tuple[str, Sample]]:
    """Every image with its split, also the masks of normal ones."""
    normal_masks = dict(category.normal_masks)
    for split, paths in (("train", category.train), ("validation", category.validation)):
        for path in paths:
            yield split, Sample(path, GOOD)
    for sample in category.test:
        mask = normal_masks.get(sample.path)
        yield "test", sample if mask is None else replace(sample, masks=(mask,))


def _see(one: tuple[str, Sample], hold: Hold) -> _Seen:
    split, item = one
    errors: list[tuple[Path, str]] = []
    digest, mode, look = "", "", None
    try:
        file = fetch(item.path)
        picture, depth, mode = decode_stretched(file, hold)
        digest = content_sha256(file)
        small = picture.resize((_LOOK_PX, _LOOK_PX), Image.Resampling.BICUBIC).convert("RGB")
        look = Look.of(np.asarray(small), (picture.height, picture.width), depth)
        del picture
        hold(0)
    except ImageReadError as error:
        errors.append((item.path, error.reason))
    masks = []
    for path in item.masks:
        try:
            truth = read_truth(path, item.path)
        except ImageReadError as error:
            errors.append((path, error.reason))
        except DatasetError as error:
            errors.append((path, str(error).removeprefix(f"{path} ")))
        else:
            height, width = truth.mask.shape
            is_marked = bool(truth.mask.any())
            masks.append(_SeenMask(path, (height, width), is_marked, truth.flaws))
    return _Seen(split, item, digest, mode, look, tuple(masks), tuple(errors))


def _check_one(seen: _Seen, has_masks: bool) -> Iterator[Finding]:
    """What is wrong with one image and its masks."""
    item = seen.item
    for path, reason in seen.errors:
        yield Finding("unreadable", path, reason)
    for mask in seen.masks:
        if seen.look is not None and mask.size_px != seen.look.source_px:
            ours, theirs = _format_px(mask.size_px), _format_px(seen.look.source_px)
            detail = f"{ours}, but its image has {theirs}{_name_image(mask.path, item)}"
            yield Finding("mask-size", mask.path, detail, item.path)
    if not item.is_anomalous:
        for mask in seen.masks:
            if mask.is_marked:
                detail = f"its image is good, but {mask.path} marks a defect"
                yield Finding("contradiction", item.path, detail, mask.path)
        return
    for mask in seen.masks:
        for flaw in mask.flaws:
            detail = f"{FLAWS[flaw][1]}{_name_image(mask.path, item)}"
            yield Finding(flaw, mask.path, detail, item.path)
    if seen.split == "test" and not item.masks and has_masks:
        yield Finding("no-mask", item.path, f"{item.defect}, without a mask")
    empty = [mask.path for mask in seen.masks if not mask.is_marked]
    if empty and len(empty) == len(item.masks):
        detail = f"it is labelled {item.defect}, but {empty[0]} marks no defect"
        if is_annotation(empty[0]):
            detail += " (a shape whose label says good is none)"
        yield Finding("contradiction", item.path, detail, empty[0])
    else:
        for path in empty:
            yield Finding("empty-mask", path, f"one of {len(item.masks)} of its image", item.path)


def _name_image(mask: Path, item: Sample) -> str:
    """Name the image where its mask does not: one file may know many."""
    return f": {item.path}" if is_annotation(mask) else ""


def _find_repeated(seen: Sequence[_Seen]) -> Iterator[Finding]:
    """Images that repeat an earlier one, by their bytes or by their look."""
    first: dict[str, int] = {}
    for i, one in enumerate(seen):
        j = first.setdefault(one.sha256, i)
        if j != i:
            yield _tell_repetition(one, seen[j], "leak", "the same file")
    for i, j in near_duplicates([one.look for one in seen if one.look is not None]):
        if first[seen[i].sha256] == i:  # else its bytes have been found already
            yield _tell_repetition(seen[i], seen[j], "look-alike", "nearly the same picture")


def _tell_repetition(one: _Seen, earlier: _Seen, across: str, how: str) -> Finding:
    item, other = one.item, earlier.item
    there = f"{other.path} ({earlier.split}, {other.defect})"
    detail = f"{one.split}, {item.defect}; {how} as {there}"
    if one.split != earlier.split:
        return Finding(across, item.path, detail, other.path)
    if one.sha256 == earlier.sha256 and item.is_anomalous != other.is_anomalous:
        return Finding("contradiction", item.path, detail, other.path)
    return Finding("duplicate", item.path, detail, other.path)


def _find_odd(seen: Sequence[_Seen]) -> Iterator[Finding]:
    """Images whose size or mode is not that of most."""
    looks = [one.look for one in seen if one.look is not None]
    usual_px = _find_usual([look.source_px for look in looks])
    if usual_px is None:
        for i, words in far_sizes(looks):
            yield Finding("size", seen[i].item.path, words)
    else:
        for one, look in zip(seen, looks, strict=True):
            if look.source_px != usual_px:
                words = f"{_format_px(look.source_px)}; {_format_px(usual_px)} is usual (HxW)"
                yield Finding("size", one.item.path, words)
    usual_mode = _find_usual([one.mode for one in seen])
    for one in seen:
        if usual_mode is not None and one.mode != usual_mode:
            yield Finding("mode", one.item.path, f"mode {one.mode}; {usual_mode} is usual")


def _find_usual(values: Sequence[Value]) -> Value | None:
    for value, count in Counter(values).most_common(1):
        if count >= _USUAL * len(values):
            return value
    return None


def _format_px(size_px: tuple[int, int]) -> str:
    return f"{size_px[0]}x{size_px[1]} px"
