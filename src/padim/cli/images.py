"""What the commands that read images and write folders have in common."""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from padim.cli.console import Output, say, warn
from padim.datasets.folder import list_images
from padim.datasets.left_out import LeftOut
from padim.errors import ImageReadError, PadimError, UsageError, format_count, join_names
from padim.files import Names, same_name
from padim.images.decode import read_size_px
from padim.images.reading import AS_IT_IS, Reading
from padim.places import Place, find_place, is_far, require_here
from padim.scoring.prediction import Decision

_MOST_FETCHED = 16  # images, to know their sizes
# By which a folder of results is known
_RESULTS = ("results.json", "predictions.csv", "predictions.parquet")


class Unreadable:
    """Collects images that cannot be read, when the user wants to go on without them."""

    def __init__(self, skip: bool) -> None:
        self.paths: list[str] = []
        self.callback = self._collect if skip else None

    def _collect(self, error: ImageReadError) -> None:
        self.paths.append(str(error.path))
        say(f"left out: {error}")

    def report(self) -> None:
        """Say how many there were."""
        if self.paths:
            were = "image was" if len(self.paths) == 1 else "images were"
            say(f"{len(self.paths)} unreadable {were} left out: {join_names(self.paths)}.")


def measure_sizes(
    paths: Iterable[Path], reading: Reading = AS_IT_IS
) -> tuple[tuple[int, int], str]:
    """The (height, width) that holds every image, and the sizes in words.

    Images that cannot be read are left to whoever reads them. Of those that are no plain files, a
    few are looked at alone: each would be fetched for it.
    """
    found = set()
    paths = list(paths)
    elsewhere = [path for path in paths if isinstance(path, Place)]
    left = set(elsewhere) - set(elsewhere[:: -(-len(elsewhere) // _MOST_FETCHED) or 1])
    for path in paths:
        if path in left:
            continue
        with suppress(ImageReadError):
            found.add(read_size_px(path, reading))
    if not found:
        return (0, 0), "of unknown size"
    heights, widths = zip(*found, strict=True)
    low, high = (min(heights), min(widths)), (max(heights), max(widths))
    words = (
        f"{high[0]}x{high[1]} px" if low == high else f"{low[0]}x{low[1]} to {high[0]}x{high[1]} px"
    )
    if left:
        words += f" as far as {len(paths) - len(left)} of them say"
    return high, words


def say_left_out(left_out: LeftOut) -> None:
    """Say what folders hold beside the images that are taken, if there is something."""
    if words := left_out.describe():
        say(words)


def describe_threshold(decision: Decision) -> str:
    """Where normal ends, and whence that comes."""
    calibration, threshold = decision.calibration, decision.threshold
    basis = threshold.basis or (
        f"a false-alarm rate of {threshold.rate:.3g} by {calibration.source} scores of "
        f"{format_count(calibration.count, 'good image')}"
    )
    if threshold.kind == "spread":
        basis += f", whose spread puts it below the highest, {calibration.image_score[-1]:.4g}"
    if threshold.interval is not None:
        low, high = threshold.interval
        basis += f" and a fit of their tail (90% interval {low:.4g} to {high:.4g})"
    return f"Threshold {threshold.score:.4g}: {basis}. {threshold.warning}".rstrip()


def say_threshold(decision: Decision) -> None:
    """Say where normal ends, and that it is stale even if only results are wanted."""
    if decision.calibration.stale and Output.quiet:
        warn(decision.threshold.warning)
    say(describe_threshold(decision))


def require_apart(out: Path, given: Iterable[Path], *, recursive: bool = True) -> None:
    """Make sure that what is written does not end up among the images that are read.

    Nor may it be written into a folder inside theirs, where these are read as well.
    """
    require_here(out)
    place = out.resolve()
    for folder in given:
        there = folder.resolve()
        if folder.is_dir() and (place == there or (recursive and place.is_relative_to(there))):
            where = "" if place == there else f"inside {folder}, "
            raise UsageError(
                f"{out} is {where}where the images are, and what is written would be taken for one "
                "of them next time. Choose another folder."
            )


def require_no_images(out: Path) -> None:
    """Make sure that results are not written among images, unless results lie there already."""
    if not out.is_dir() or any((out / name).exists() for name in _RESULTS):
        return
    if found := list_images(out):
        names = join_names(path.name for path in found)
        raise UsageError(
            f"{out} holds images ({names}), but results need a folder of their own. Choose another."
        )


def require_writable(folder: Path) -> None:
    """Make sure, before any work, that a folder can be written to, or made."""
    require_here(folder)
    there = folder
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise PadimError(f"{there} is no folder. Choose another place.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PadimError(f"{folder} cannot be written to. Choose another place.")
    require_names(folder)


def require_place(*files: Path) -> None:
    """Make sure, before any work, that files can be written to where they are to be."""
    for path in files:
        require_names(path)
        require_writable(path.parent)


def require_names(path: Path) -> None:
    """Make sure that a path is one of this machine, and no part longer than a name can be there."""
    require_here(path)
    there = path
    while not os.path.lexists(there):
        there = there.parent
    for name in path.parts[len(there.parts) :]:
        try:
            os.lstat(there / name)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                n_bytes = len(os.fsencode(name))
                raise UsageError(
                    f"{path} has a name of {n_bytes} bytes, which is too long. Choose a shorter "
                    "one."
                ) from error


def name_outputs(chosen: Sequence[Path], given: Sequence[Path]) -> dict[Path, Path]:
    """Name each image below the folders it was found through, without suffix where that is enough.

    Images of the same stem keep their suffixes, so that no two get one name on any system.
    """
    plain = [
        path if is_far(path) else find_place(os.path.abspath(path))  # noqa: PTH100  # resolves .., not links
        for path in given
    ]
    try:
        root = os.path.commonpath([path if path.is_dir() else path.parent for path in plain])
        ways = {path: Path(os.path.relpath(path, root)) for path in chosen}
    except ValueError:  # on several drives of Windows, or here and there: these are folders
        ways = {path: path.absolute() for path in chosen}
    stems = {path: way.with_suffix("").as_posix().lstrip("/") for path, way in ways.items()}
    uses = Counter(map(same_name, stems.values()))
    names = Names()
    return {
        path: names.take(*[stem] * (uses[same_name(stem)] == 1), stem + path.suffix)
        for path, stem in stems.items()
    }
