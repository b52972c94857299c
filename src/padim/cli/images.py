"""What the commands that read images and write folders have in common."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from padim.cli.console import say
from padim.errors import ImageReadError, PadimError, UsageError, listed, say_number
from padim.files import Names, same_name
from padim.images.decode import read_size_px
from padim.scoring.prediction import Decision


class Unreadable:
    """Collects images that cannot be read, when the user wants to go on without them.

    Args:
        skip: Whether to go on.
    """

    def __init__(self, skip: bool) -> None:
        self.paths: list[str] = []
        self.callback = self._collect if skip else None

    def _collect(self, error: ImageReadError) -> None:
        self.paths.append(str(error.path))
        say(f"left out: {error}")

    def report(self) -> None:
        """Say how many there were."""
        if self.paths:
            say(f"Left out as unreadable: {listed(self.paths)}.")


def sizes(paths: Iterable[Path]) -> tuple[tuple[int, int], str]:
    """The (height, width) that holds every image, and the sizes in words.

    Images that cannot be read are left to whoever reads them.
    """
    found = set()
    for path in paths:
        with suppress(ImageReadError):
            found.add(read_size_px(path))
    if not found:
        return (0, 0), "of unknown size"
    heights, widths = zip(*found, strict=True)
    low, high = (min(heights), min(widths)), (max(heights), max(widths))
    words = (
        f"{high[0]}x{high[1]} px" if low == high else f"{low[0]}x{low[1]} to {high[0]}x{high[1]} px"
    )
    return high, words


def threshold_words(decision: Decision) -> str:
    """Where normal ends, and whence that comes."""
    calibration, threshold = decision.calibration, decision.threshold
    stale = ""
    if calibration.stale:
        stale = (
            " STALE: the model has changed since. Renew it with --recalibrate or padim calibrate."
        )
    if threshold.basis:
        return f"Threshold {threshold.score:.4g}: {threshold.basis}.{stale}"
    words = (
        f"Threshold {threshold.score:.4g}: a false-alarm rate of {threshold.rate:.3g} by "
        f"{calibration.source} scores of {say_number(calibration.count, 'good image')}"
    )
    if threshold.interval is not None:
        low, high = threshold.interval
        words += f" and a fit of their tail (90% interval {low:.4g} to {high:.4g})"
    return f"{words}. {threshold.warning}".rstrip() + stale


def require_apart(out: Path, given: Iterable[Path]) -> None:
    """Make sure that what is written does not end up among the images that are read.

    Raises:
        UsageError: It would.
    """
    for folder in given:
        if folder.is_dir() and out.resolve() == folder.resolve():
            raise UsageError(
                f"{out} is where the images are, and what is written would be taken for one of "
                "them next time. Choose another folder."
            )


def require_writable(folder: Path) -> None:
    """Make sure, before any work, that a folder can be written to, or made.

    Raises:
        PadimError: It cannot.
    """
    there = folder
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise PadimError(f"{there} is no folder. Choose another place.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PadimError(f"{folder} cannot be written to. Choose another place.")


def output_names(chosen: Sequence[Path], given: Sequence[Path]) -> dict[Path, Path]:
    """Name each image below the folders it was found through, without suffix where that is enough.

    Images of the same stem keep their suffixes, so that no two get one name on any system.
    """
    plain = [Path(os.path.abspath(path)) for path in given]  # noqa: PTH100  # resolves .., not links
    try:
        root = os.path.commonpath([path if path.is_dir() else path.parent for path in plain])
        ways = {path: Path(os.path.relpath(path, root)) for path in chosen}
    except ValueError:  # on several drives of Windows: their letters are folders
        ways = {path: path.absolute() for path in chosen}
    stems = {path: way.with_suffix("").as_posix().lstrip("/") for path, way in ways.items()}
    uses = Counter(map(same_name, stems.values()))
    names = Names()
    return {
        path: names.take(*[stem] * (uses[same_name(stem)] == 1), stem + path.suffix)
        for path, stem in stems.items()
    }
