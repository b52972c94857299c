"""What folders hold beside the images that are taken from them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from padim.datasets.category import Category
from padim.datasets.folder import expand, folders_in, scan
from padim.datasets.pairing import part_masks
from padim.errors import format_count, join_names
from padim.images.decode import IMAGE_SUFFIXES


@dataclass(frozen=True)
class LeftOut:
    """What was not taken.

    Attributes:
        suffixes: Of files that are no images, each once, and how many there are; the most first.
        n_hidden: Files whose names begin with a dot.
        dead_links: Links to what is not there.
        n_special: Pipes, sockets and devices.
        folders: Folders that hold images.
        linked: Links to folders, which are not followed.
        is_recursion_offered: Whether ``--recursive`` would take those.
        unlabelled: Images of a category that are in no folder that says what they show.
        masks: Masks beside images to learn from.
    """

    suffixes: tuple[tuple[str, int], ...] = ()
    n_hidden: int = 0
    dead_links: tuple[Path, ...] = ()
    n_special: int = 0
    folders: tuple[Path, ...] = ()
    linked: tuple[Path, ...] = ()
    is_recursion_offered: bool = True
    unlabelled: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()

    def describe(self) -> str:
        """Say in a line what it is; empty when it is nothing."""
        parts = []
        if self.suffixes:
            count = format_count(sum(n for _, n in self.suffixes), "file")
            verb = "is no image" if count.startswith("1 ") else "are no images"
            kinds = ", ".join(f"{suffix} {n}" for suffix, n in self.suffixes)
            parts.append(f"{count} that {verb} ({kinds})")
        if self.n_hidden:
            parts.append(format_count(self.n_hidden, "hidden file"))
        if self.dead_links:
            count = format_count(len(self.dead_links), "dead link")
            parts.append(f"{count}: {join_names(path.name for path in self.dead_links)}")
        if self.n_special:
            parts.append(format_count(self.n_special, "pipe or device", "pipes or devices"))
        if self.folders:
            count = format_count(len(self.folders), "folder")
            names = join_names(path.name for path in self.folders)
            offer = ", for which there is --recursive" if self.is_recursion_offered else ""
            parts.append(f"{count} of images{offer}: {names}")
        if self.linked:
            count = format_count(len(self.linked), "link to a folder", "links to folders")
            parts.append(f"{count}, not followed: {join_names(path.name for path in self.linked)}")
        if self.unlabelled:
            count = format_count(len(self.unlabelled), "image")
            names = join_names(f"{path.parent.name}/{path.name}" for path in self.unlabelled)
            parts.append(f"{count} in no folder that says what they show: {names}")
        if self.masks:
            count = format_count(len(self.masks), "mask")
            names = join_names(path.name for path in self.masks)
            parts.append(f"{count} beside the images, as their names say: {names}")
        return f"Left out: {'; '.join(parts)}." if parts else ""


def find_left_out(
    folders: Iterable[Path], used: Iterable[Path] = (), *, recursive: bool = False
) -> LeftOut:
    """Find what folders hold beside images.

    Args:
        folders: Folders of images; other paths are passed over.
        used: Files that are used otherwise, as masks are.
        recursive: Whether images of the folders inside are taken as well.
    """
    suffixes, hidden, special = Counter[str](), 0, 0
    dead: list[Path] = []
    below: list[Path] = []
    linked: list[Path] = []
    folders = tuple(folders)
    known = {*used, *folders}
    for folder in _walk(folders, recursive):
        with scan(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path, suffix = folder / entry.name, Path(entry.name).suffix.lower()
                if path in known:
                    continue
                if entry.is_symlink() and not path.exists():
                    dead.append(path)
                elif entry.is_dir():
                    is_shown = not entry.name.startswith(".")
                    if is_shown and recursive and entry.is_symlink():
                        linked.append(path)
                    elif is_shown and not recursive and _holds_images(path):
                        below.append(path)
                elif entry.name.startswith("."):
                    hidden += 1
                elif not entry.is_file():
                    special += 1
                elif suffix not in IMAGE_SUFFIXES:
                    suffixes[suffix or "no suffix"] += 1
    return LeftOut(
        tuple(suffixes.most_common()), hidden, tuple(dead), special, tuple(below), tuple(linked)
    )


def find_left_out_of(categories: Sequence[Category]) -> LeftOut:
    """Find what the folders of the images of categories hold beside images and masks."""
    folders: dict[Path, None] = {}
    used: set[Path] = set()
    for category in categories:
        if not category.is_listed:
            images = (*category.images(), *category.validation)
            folders |= dict.fromkeys(path.parent for path in images)
        used.update(category.unused_masks)
        for sample in category.test:
            used.update(sample.masks)
        used.update(mask for _, mask in category.normal_masks)
    found = find_left_out(folders, used)
    return replace(
        found,
        is_recursion_offered=False,
        unlabelled=tuple(path for one in categories for path in one.unlabelled),
        masks=tuple(
            path for one in categories for path in part_masks((*one.train, *one.unused_masks))[1]
        ),
    )


def find_masks(paths: Sequence[Path], *, recursive: bool) -> LeftOut:
    """Find the masks that ``expand_good`` leaves out."""
    return LeftOut(masks=part_masks(expand(paths, recursive=recursive))[1])


def _holds_images(folder: Path) -> bool:
    """Whether a folder that is not taken holds images, or may: it cannot be looked into."""
    try:
        with scan(folder) as entries:
            return any(Path(one.name).suffix.lower() in IMAGE_SUFFIXES for one in entries)
    except OSError:
        return True


def _walk(paths: Iterable[Path], recursive: bool) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield path
            if recursive:
                yield from (one for one in folders_in(path, recursive) if not one.is_symlink())
