"""What pictures are inspected by: a model for each recipe, changed while others are in flight."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from padim.errors import (
    MemoryLimitError,
    ModelFileError,
    PadimError,
    ParityError,
    UnknownNameError,
    UsageError,
    failure_of,
)
from padim.files import identify, sha256, write_whole
from padim.images.ahead import Loaded
from padim.images.decode import Depth
from padim.memory import format_bytes
from padim.model.opening import load, reproduce
from padim.scoring.engines import choose_threads
from padim.scoring.prediction import NOT_CALIBRATED, STALE
from padim.scoring.predictor import Predictor
from padim.serving.lane import Lane
from padim.serving.station import Computing, RecipeSettings

_N_TIMED = 5  # pictures, to know the pace before the first comes
_SPREAD = 2.0  # memory of an open model, over the bytes of its file
_log = logging.getLogger(__name__)


class NoPreviousError(UsageError):
    """A recipe has had no model before."""


@dataclass(frozen=True)
class Opened:
    """A model that scores, and that has reproduced its samples on this machine."""

    path: Path
    lane: Lane
    identity: tuple[int, ...]  # of its file
    n_samples: int  # that it reproduced; 0 when it brings none
    n_bytes: int  # of memory, as forecast
    digests: tuple[str, ...]  # sha256 of each of its files

    @property
    def predictor(self) -> Predictor:
        """What scores."""
        return self.lane.predictor


class Recipe:
    """A name, its settings, and the models that it has had.

    Attributes:
        current: What answers; None before the first picture, and when others took its memory.
        previous: What answered before that, for a rollback.
        shadow: What scores as well and answers nothing.
        file_trouble: Why the model that lies in its file was not taken; empty when it was.
        shadow_trouble: Why the shadow is not open; empty when it is, or none is wanted.
        refused: The identity of that model, which is not looked at again; empty when there is none.
    """

    def __init__(self, name: str, settings: RecipeSettings) -> None:
        self.name = name
        self.settings = settings
        self.current: Opened | None = None
        self.previous: Opened | None = None
        self.shadow: Opened | None = None
        self.file_trouble = ""
        self.shadow_trouble = ""
        self.refused: tuple[int, ...] = ()
        self.used_s = time.monotonic()

    @property
    def trouble(self) -> str:
        """Why a model that is wanted is not open; empty when all are."""
        return " ".join(filter(None, (self.file_trouble, self.shadow_trouble)))

    @property
    def warning(self) -> str:
        """What is wrong with the threshold of the model that answers; empty when nothing is."""
        decision = self.current.predictor.decision if self.current else None
        return STALE if decision is not None and decision.calibration.stale else ""

    @property
    def opened(self) -> list[Opened]:
        """The models that are open."""
        return [one for one in (self.current, self.previous, self.shadow) if one is not None]


class Recipes(Mapping[str, Recipe]):
    """The recipes of a station.

    Args:
        settings: Of each recipe, by its name.
        computing: How models are opened.
        kept: Folder of copies of models, for a way back.
        note: Told of each model that answers for a recipe from now on.
    """

    def __init__(
        self,
        settings: Mapping[str, RecipeSettings],
        computing: Computing,
        kept: Path,
        note: Callable[[str, Opened], None],
    ) -> None:
        self._recipes = {name: Recipe(name, one) for name, one in settings.items()}
        self._computing = computing
        self._kept = kept
        self._note = note
        self._changing = threading.RLock()
        self._n_threads = computing.n_threads or max(1, choose_threads(None) - 1)

    def __getitem__(self, name: str) -> Recipe:
        if name not in self._recipes:
            raise UnknownNameError("recipe", name, tuple(self._recipes))
        return self._recipes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._recipes

    def __iter__(self) -> Iterator[str]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)

    def open_all(self) -> None:
        """Open the model of each recipe, as far as memory goes.

        Raises:
            PadimError: One cannot be opened, or says of its samples what its fit did not.
        """
        for name, recipe in self.items():
            self.use(name)
            if recipe.trouble:
                raise PadimError(f"The recipe {name} cannot begin. {recipe.trouble}")

    def use(self, name: str) -> Opened:
        """The model that answers for a recipe, opened if it is not.

        Raises:
            UnknownNameError: There is no such recipe.
            PadimError: The model cannot be opened.
        """
        recipe = self[name]
        recipe.used_s = time.monotonic()
        found = recipe.current
        if found is None:
            with self._changing:
                found = recipe.current
                if found is None:
                    found = self._open(recipe, recipe.settings.model)
                    self._keep(found)
                    recipe.current = found
                    self._note(name, found)
                    self._open_shadow(recipe)
        return found

    def _open_shadow(self, recipe: Recipe) -> None:
        """Open the model on trial, whose failure keeps no picture from its verdict."""
        if recipe.settings.shadow is None:
            return
        try:
            recipe.shadow = self._open(recipe, recipe.settings.shadow)
            recipe.shadow_trouble = ""
        except PadimError as error:
            recipe.shadow_trouble = f"The shadow scores nothing: {error}"
            _log.error("recipe %s: %s", recipe.name, recipe.trouble)

    def try_model(self, name: str, path: Path) -> None:
        """Make sure that a model could answer for a recipe: it opens and reproduces its samples.

        Raises:
            UnknownNameError: There is no such recipe.
            PadimError: It could not.
        """
        with self._changing:
            self._open(self[name], path).lane.close()

    def change(self, name: str) -> Opened:
        """Let the model answer that lies in a recipe's file now, once it reproduces its samples.

        Pictures in flight finish on the old one, which stays for ``go_back``.

        Raises:
            UnknownNameError: There is no such recipe.
            PadimError: The model cannot be opened; the old one goes on.
        """
        with self._changing:
            recipe = self[name]
            opened = self._open(recipe, recipe.settings.model)
            try:
                self._keep(opened)
                self._note(name, opened)
            except BaseException:
                opened.lane.close()
                raise
            if recipe.previous is not None:
                recipe.previous.lane.close()
            recipe.previous, recipe.current = recipe.current, opened
            recipe.file_trouble, recipe.refused = "", ()
            return opened

    def go_back(self, name: str) -> Opened:
        """Let the model answer that did before; the two change places, and its file returns.

        Raises:
            UnknownNameError: There is no such recipe.
            NoPreviousError: There was none.
            ModelFileError: The copy of its file is another now; the model of now goes on.
        """
        with self._changing:
            recipe = self[name]
            previous = recipe.previous
            if previous is None or recipe.current is None:
                raise NoPreviousError(
                    f"The recipe {name} has had no other model. There is no way back."
                )
            files = _list_files(recipe.settings.model)
            copies = [self._place(previous) / file.name for file in files]
            for copy, digest in zip(copies, previous.digests, strict=True):
                if sha256(copy) != digest:
                    raise ModelFileError(
                        f"{copy} is not the model that answered before. Put that into the place "
                        f"of {recipe.settings.model} yourself; the model of now answers until then."
                    )
            for file, copy in zip(files, copies, strict=True):
                with write_whole(file) as partial:
                    shutil.copyfile(copy, partial)
            recipe.current, recipe.previous = (
                replace(previous, identity=identify(recipe.settings.model)),
                recipe.current,
            )
            recipe.file_trouble, recipe.refused = "", ()
            self._note(name, recipe.current)
            return recipe.current

    def _place(self, opened: Opened) -> Path:
        return self._kept / str(opened.predictor.file_sha256)

    def _keep(self, opened: Opened) -> None:
        """Copy the files of a model, so that there is a way back when others are in their place."""
        for file, digest in zip(_list_files(opened.path), opened.digests, strict=True):
            kept = self._place(opened) / file.name
            if not kept.is_file() or sha256(kept) != digest:
                with write_whole(kept) as partial:
                    shutil.copyfile(file, partial)

    def follow_files(self) -> list[str]:
        """Take the models that have come into the files of recipes; the names of those recipes."""
        return [name for name, recipe in self.items() if self._follow(recipe)]

    def _follow(self, recipe: Recipe) -> bool:
        """Take the model that has come into a recipe's file; whether one has."""
        with self._changing:  # so that a model which is just being changed is not opened twice
            current, identity = recipe.current, identify(recipe.settings.model)
            if current is None or identity in ((), recipe.refused):
                return False
            if identity == current.identity:
                recipe.file_trouble, recipe.refused = "", ()
                return False
            try:
                self.change(recipe.name)
            except Exception as error:
                failure = failure_of(error)
                words = failure[1] if failure else f"{type(error).__name__}: {error}"
                if recipe.file_trouble != words:
                    mistake = None if failure else error
                    _log.error(
                        "recipe %s keeps its model: %s", recipe.name, words, exc_info=mistake
                    )
                recipe.file_trouble = words
                if failure is None or isinstance(error, ModelFileError | ParityError | UsageError):
                    recipe.refused = identity
                return False
            return True

    def close(self) -> None:
        """End all lanes once what is in them has been answered."""
        with self._changing:
            for recipe in self._recipes.values():
                for one in recipe.opened:
                    one.lane.close()

    def _open(self, recipe: Recipe, path: Path) -> Opened:
        """Open a model, have it reproduce its samples and find its pace."""
        computing, settings = self._computing, recipe.settings
        identity = identify(path)
        n_bytes = forecast_bytes(path)
        self._make_room(recipe, n_bytes)
        predictor = load(
            path,
            engine=computing.engine,
            n_threads=self._n_threads,
            precision=computing.precision,
            device=computing.device,
        )
        if predictor.decision is None:
            raise UsageError(f"{path}: {NOT_CALIBRATED}")
        precision = computing.precision or str(predictor.description.facts["precision"])
        parity = reproduce(predictor, precision)
        if predictor.decision.calibration.stale:
            _log.warning("recipe %s, %s: %s", recipe.name, path, STALE)
        predictor = predictor.at(settings.false_alarm_rate, settings.pixel_false_alarm_rate)
        digests = tuple(map(sha256, _list_files(path)))
        if identify(path) != identity:
            raise ModelFileError(f"{path} was replaced while it was opened. Try again.")
        lane = Lane(predictor, measure_pace(predictor))
        return Opened(path, lane, identity, parity.n_images if parity else 0, n_bytes, digests)

    def _make_room(self, recipe: Recipe, n_bytes: int) -> None:
        """Close models until another has room: those from before first, then the longest unused."""
        most = self._computing.most_bytes
        if most is None:
            return
        if n_bytes > most:
            raise MemoryLimitError(
                f"The model of {recipe.name} takes {format_bytes(n_bytes)}, but models may take "
                f"{format_bytes(most)} together. Allow more with --memory."
            )
        answering = [one for one in (recipe.current, recipe.shadow) if one is not None]
        n_stays = sum(one.n_bytes for one in answering)
        if n_stays + n_bytes > most:
            raise MemoryLimitError(
                f"The new model of {recipe.name} takes {format_bytes(n_bytes)} beside "
                f"{format_bytes(n_stays)} of what answers until it is ready, but models may take "
                f"{format_bytes(most)} together. Allow more with --memory."
            )
        others = sorted(self._recipes.values(), key=lambda one: one.used_s)
        for keeps_current in (True, False):
            for other in others:
                if sum(one.n_bytes for all in others for one in all.opened) + n_bytes <= most:
                    return
                if other.previous is not None:
                    other.previous.lane.close()
                    other.previous = None
                if not keeps_current and other is not recipe:
                    for one in other.opened:
                        one.lane.close()
                    other.current = other.shadow = None


def forecast_bytes(path: Path) -> int:
    """Memory that an open model takes, from the bytes of its file and of weights beside it."""
    return int(_SPREAD * sum(file.stat().st_size for file in _list_files(path) if file.is_file()))


def _list_files(path: Path) -> list[Path]:
    """A model's file, and that of its weights where they are beside it."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def measure_pace(predictor: Predictor) -> float:
    """Seconds that one picture takes alone: the fastest of a few, of noise."""
    size_px = predictor.camera_px or predictor.preprocess.size_px
    pixels = np.random.default_rng(0).integers(0, 256, (*size_px, 3), np.uint8)
    image = Loaded(pixels, pixels, size_px, "", Depth("8-bit colour"))
    times_s = []
    for _ in range(_N_TIMED):
        started_s = time.perf_counter()
        predictor.judge([image])
        times_s.append(time.perf_counter() - started_s)
    return min(times_s)
