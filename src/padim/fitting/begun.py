"""What a fit that is spread over workers has done so far, for the same fit to go on with."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import msgspec
import numpy as np

from padim.errors import MemoryLimitError, PadimError, UsageError
from padim.files import sha256, write_text, write_whole
from padim.fitting.look_sum import LookSum
from padim.fitting.settings import FitSettings
from padim.model.pair import load_pair
from padim.model.shard_file import ShardLook, find_shard, load_look, load_scores, save_look
from padim.temporary import sweep
from padim.versions import read_versions

_SUFFIXES = (".safetensors", ".json", ".done")  # of the files of a fit
_SUMMED = 8  # looks that a sum has more than the one that was written last
LeftOut = list[tuple[str, str]]  # images that could not be read, and why


class DamagedError(PadimError):
    """What is kept of a fit cannot be read: the fit has to begin anew."""


class Begun:
    """The files of a fit, in a folder that outlives it when it is stopped.

    What is there of another fit goes, and what cannot be read.

    Args:
        folder: Where they are; made, if it is missing.
        settings: Every choice of the fit.
        facts: What else the result depends on, such as the sha256 of the images.

    Raises:
        UsageError: The folder has something else.
    """

    def __init__(self, folder: Path, settings: FitSettings, facts: Iterable[object]) -> None:
        self.folder = folder
        self.sum, self._n_saved = LookSum(), 0
        key, place = _describe(settings, facts), folder / "fit.json"
        sweep(folder)
        if not place.is_file():
            if folder.exists() and any(folder.iterdir()):
                raise UsageError(f"{folder} has no fit that was begun. Move or remove it.")
            write_text(place, key)
        elif place.read_bytes() != key.encode():
            self.clear()
            write_text(place, key)
        try:
            self._go_on()
        except DamagedError:
            self.clear()

    def clear(self) -> None:
        """Remove what is kept of a fit, so that it begins anew."""
        for path in self.folder.iterdir():
            if path.suffix in _SUFFIXES and path.name != "fit.json" and path.is_file():
                path.unlink()
        self.sum, self._n_saved = LookSum(), 0

    def _go_on(self) -> None:
        """Take the sum that was saved, and look at the model that was made of all looks."""
        with self._reading():
            if (path := self.name("sum")).is_file():
                self.sum.go_on(path)
                self._n_saved = self.sum.number
            if self.has_done("merge"):
                load_pair(self.name("merged"))
        self._drop_looks()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Read a file of a fit in a ``with`` block."""
        try:
            yield
        except MemoryLimitError:
            raise
        except (PadimError, FileNotFoundError, ValueError) as error:
            raise DamagedError(f"{self.folder} cannot be read. Remove it.") from error

    def name(self, kind: str) -> Path:
        """A file of a kind."""
        return self.folder / f"{kind}.safetensors"

    def keep(self, kind: str, content: bytes) -> Path:
        """Write a file of a kind, whole or not at all."""
        with write_whole(path := self.name(kind), is_one_of_many=True) as partial:
            partial.write_bytes(content)
        return path

    def mark(self, step: str) -> None:
        """Note that a step is done."""
        write_text(self.folder / f"{step}.done", "")

    def has_done(self, step: str) -> bool:
        """Whether a step is done."""
        return (self.folder / f"{step}.done").is_file()

    def take_look(self, number: int, look: ShardLook | None, left_out: LeftOut) -> None:
        """Take what came of the first look at a shard; nothing where no image could be read.

        The look at the next shard is added to the sum, and the others are written.
        """
        if left_out:
            write_text(self.folder / f"{number}.unreadable.json", json.dumps(left_out))
        if number == self.sum.number + 1:
            self._add(look)
        elif look is None:
            self.mark(f"{number}.none")
        else:
            save_look(look, self.name(f"{number}.moments"))

    def has_look(self, number: int) -> bool:
        """Whether the first look at a shard was taken."""
        if number <= self.sum.number or self.has_done(f"{number}.none"):
            return True
        try:
            return find_shard(self.name(f"{number}.moments")).number == number
        except PadimError:
            return False

    def add_kept(self) -> bool:
        """Add the first look at the next shard to the sum, if it is there.

        Raises:
            DamagedError: It cannot be read.
        """
        number = self.sum.number + 1
        if not self.has_look(number):
            return False
        look = None
        if not self.has_done(f"{number}.none"):
            with self._reading():
                look = load_look(self.name(f"{number}.moments"))
        self._add(look)
        return True

    def save_sum(self) -> None:
        """Write the sum, for the same fit to go on with."""
        if self._n_saved < self.sum.number and self.sum.save(self.name("sum")):
            self._n_saved = self.sum.number
            self._drop_looks()

    def drop_sum(self) -> None:
        """Remove what the model of all shards was made of."""
        self._drop_looks()
        self.name("sum").unlink(missing_ok=True)
        self.sum = LookSum()

    def list_unreadable(self) -> Iterator[tuple[str, str]]:
        """The images that could not be read at first looks, and why.

        Raises:
            DamagedError: A list cannot be read.
        """
        for path in sorted(self.folder.glob("*.unreadable.json")):
            with self._reading():
                found = msgspec.json.decode(path.read_bytes(), type=LeftOut)
            yield from found

    def has_scores(self, kind: str, model_sha256: str, drop_outliers: float) -> bool:
        """Whether a file is of a second look under this model."""
        try:
            found = load_scores(self.name(kind))
        except PadimError:
            return False
        return (found.model_sha256, found.drop_outliers) == (model_sha256, drop_outliers)

    def _add(self, look: ShardLook | None) -> None:
        number = self.sum.number + 1
        self.sum.add(look, number, self.name(f"{number}.moments"))
        is_last = look is not None and number == look.shard.n_shards  # which the model has soon
        if number - self._n_saved >= _SUMMED and not is_last:
            self.save_sum()

    def _drop_looks(self) -> None:
        """Remove the looks that are in the sum."""
        for number in range(1, self.sum.number + 1):
            self.name(f"{number}.moments").unlink(missing_ok=True)
            (self.folder / f"{number}.none.done").unlink(missing_ok=True)


def _describe(settings: FitSettings, facts: Iterable[object]) -> str:
    """What the result of a fit depends on, in a line that is equal where that is."""
    chosen = {one.name: _identify(getattr(settings, one.name)) for one in fields(settings)}
    told = hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()
    return json.dumps({"settings": chosen, "versions": read_versions(), "facts": told})


def _identify(value: object) -> str:
    """The content of a file or of an array, and of all else its name."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, str | Path) and Path(value).is_file():
        return sha256(Path(value))
    return repr(value)
