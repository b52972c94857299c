"""A fit by workers that is stopped anywhere, and goes on from there."""

import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from trees import striped

import padim.fitting.spread
from padim.cli import fit_command, main
from padim.errors import DatasetError, ImageReadError, PadimError, UsageError
from padim.fitting import begun, look_sum
from padim.fitting.begun import Begun
from padim.fitting.fitter import Fitted
from padim.fitting.settings import FitSettings
from padim.fitting.spread import fit_by
from padim.model.pair import moments_path, save_pair
from padim.workers.processes import Processes
from padim.workers.protocol import Ended, Shared, Tell

T = TypeVar("T")
R = TypeVar("R")
SETTINGS = FitSettings(
    size_px=(64, 64), recipe="fast", drop_outliers=0.01, keep_moments=True, n_threads=1
)
N_PIECES = 1 + 3 * 4  # one hashes, four shards are looked at, and twice again: some are dropped


class Stopped(BaseException):
    """What Ctrl-C is."""


@dataclass(frozen=True)
class InTurn:
    """``Workers`` that are this process, up to the piece that is to stop it."""

    done: list[str]
    n_most: int = 1000
    stop: BaseException | type[BaseException] | None = Stopped
    n_threads: int = 1

    def put(self, blob: T) -> Shared[T]:
        return Processes(1).put(blob)

    def map(
        self,
        work: Callable[[T, Tell], R],
        items: Iterable[T],
        hear: Callable[[object], None],
        clean_up: Callable[[T], None] = lambda item: None,
    ) -> Generator[Ended[T, R], None, None]:
        assert isinstance(work, partial) or work.__name__ == "_hash"
        name = getattr(work, "func", work).__name__
        for item in reversed(list(items)):  # they need not end in order
            if len(self.done) == self.n_most and self.stop is not None:
                raise self.stop
            result = work(item, hear)
            self.done.append(name)
            yield Ended(item, result, None)


@pytest.fixture(autouse=True)
def few_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padim.fitting.spread, "N_SHARDS", 4)
    monkeypatch.setattr(begun, "_SUMMED", 2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("good")
    paths = [folder / f"{i:02}.png" for i in range(12)]
    for i, path in enumerate(paths):
        striped(i, spot=i == 5).save(path)
    return paths


def fit(workers: InTurn, images: Sequence[Path], folder: Path) -> Fitted:
    return fit_by(workers, images, SETTINGS, None, folder)


def read_bytes(fitted: Fitted, path: Path) -> tuple[bytes, bytes]:
    assert fitted.moments is not None
    save_pair(fitted.state, fitted.moments, path)
    return path.read_bytes(), moments_path(path).read_bytes()


@pytest.fixture(scope="module")
def whole(
    images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Fitted, tuple[bytes, bytes]]:
    """What comes of a fit that nothing stops."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(padim.fitting.spread, "N_SHARDS", 4)
        fitted = fit(InTurn([]), images, root / "fit")
    assert fitted.dropped
    return fitted, read_bytes(fitted, root / "a.safetensors")


@pytest.mark.parametrize("n_done", [1, 3, 5, 7, 9, 12])
def test_a_fit_that_is_stopped_goes_on(
    images: list[Path], whole: tuple[Fitted, tuple[bytes, bytes]], tmp_path: Path, n_done: int
) -> None:
    first, second = InTurn([], n_done), InTurn([])
    with pytest.raises(Stopped):
        fit(first, images, tmp_path / "fit")
    fitted = fit(second, images, tmp_path / "fit")
    # The images are hashed again, to see that they are the same.
    assert len(first.done) + len(second.done) == N_PIECES + 1
    assert read_bytes(fitted, tmp_path / "a.safetensors") == whole[1]
    assert replace(fitted, state=whole[0].state, moments=None) == replace(whole[0], moments=None)


@pytest.mark.parametrize(
    ("owner", "name", "is_before"),
    [
        (look_sum, "save_look", False),
        (look_sum, "save_pair", True),
        (Begun, "mark", True),
        (Begun, "drop_sum", True),
    ],
)
def test_it_goes_on_wherever_it_writes(
    images: list[Path],
    whole: tuple[Fitted, tuple[bytes, bytes]],
    tmp_path: Path,
    owner: object,
    name: str,
    is_before: bool,
) -> None:
    call = getattr(owner, name)

    def stop(*words: object) -> None:
        if not is_before:
            call(*words)
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(Stopped):
            fit(InTurn([]), images, tmp_path / "fit")
    again = InTurn([])
    fitted = fit(again, images, tmp_path / "fit")
    assert read_bytes(fitted, tmp_path / "a.safetensors") == whole[1]
    assert again.done.count("_look") == 0


def test_another_fit_begins_anew(images: list[Path], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fit(InTurn([], 7), images, tmp_path / "fit")
    for changed in (images[:-1], images):
        workers = InTurn([])
        fit(workers, changed, tmp_path / "fit")
        assert workers.done.count("_look") == 4


def test_what_could_not_be_read_is_told_again(images: list[Path], tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(images[0].read_bytes()[:200])
    told: list[ImageReadError] = []
    paths, words = [*images, torn], (SETTINGS, None, tmp_path / "fit")
    with pytest.raises(Stopped):
        fit_by(InTurn([], 6), paths, *words, unreadable=told.append)
    fit_by(InTurn([]), paths, *words, unreadable=told.append)
    assert [str(one.path) for one in told] == [str(torn)] * 2
    assert told[0].reason == told[1].reason
    with pytest.raises(PadimError, match=r"torn\.png cannot be read as an image"):
        fit_by(InTurn([]), paths, *words)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def spoil(path: Path) -> None:
    path.write_text("[[1]]")


@pytest.mark.parametrize(
    ("where", "name", "damage"),
    [
        ("looks", "3.moments.safetensors", empty),
        ("looks", "3.moments.safetensors", cut),
        ("looks", "1.unreadable.json", spoil),
        ("sum", "sum.safetensors", empty),
        ("sum", "sum.safetensors", cut),
        ("second looks", "merged.safetensors", cut),
        ("second looks", "merged.safetensors", Path.unlink),
        ("second looks", "merged.moments.safetensors", cut),
        ("second looks", "merged.moments.safetensors", Path.unlink),
        ("second looks", "4.scores.safetensors", empty),
    ],
)
def test_what_cannot_be_read_is_done_again(
    images: list[Path],
    whole: tuple[Fitted, tuple[bytes, bytes]],
    tmp_path: Path,
    where: str,
    name: str,
    damage: Callable[[Path], object],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if where == "sum":
            patch.setattr(look_sum, "save_pair", lambda *_: throw(Stopped))
        n_done = {"looks": 4, "sum": 1000, "second looks": 7}[where]
        with pytest.raises(Stopped):
            fit(InTurn([], n_done), images, tmp_path / "fit")
    damage(tmp_path / "fit" / name)
    fitted = fit(InTurn([]), images, tmp_path / "fit")
    assert read_bytes(fitted, tmp_path / "a.safetensors") == whole[1]


def throw(error: type[BaseException]) -> None:
    raise error


def test_what_a_kill_left_is_not_in_the_way(images: list[Path], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from padim.temporary import name_temporary\n"
        "(Path(sys.argv[1]) / name_temporary()).touch()\n"
    )
    folder = tmp_path / "fit"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    assert len(list(folder.iterdir())) == 1
    fit(InTurn([]), images, folder)
    assert not list(folder.glob(".padim-*"))


def test_another_fit_leaves_folders_and_other_kinds_of_files(
    images: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        fit(InTurn([], 7), images, tmp_path / "fit")
    (tmp_path / "fit/mine.txt").touch()
    (tmp_path / "fit/mine.safetensors").mkdir()
    fit(InTurn([]), images[:-1], tmp_path / "fit")
    assert {"mine.txt", "mine.safetensors"} < {path.name for path in (tmp_path / "fit").iterdir()}


def test_a_folder_of_something_else_is_left_alone(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "mine.txt").touch()
    with pytest.raises(UsageError, match=r"fit has no fit that was begun\. Move or remove it\."):
        fit(InTurn([]), images, tmp_path / "fit")


def test_the_command_says_that_it_goes_on_and_leaves_nothing_in_the_end(
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "part.safetensors"
    words = ["fit", str(images[0].parent), "-o", str(out), "--cluster", "ray", "--size-px", "64"]
    monkeypatch.setattr(fit_command, "require_cluster", lambda name: None)
    stops = (6, KeyboardInterrupt, 130), (2, DatasetError("It is gone."), 1), (100, None, 0)
    for n_most, stop, status in stops:
        workers = InTurn([], n_most, stop)
        monkeypatch.setattr(fit_command, "hire", lambda *_, there=workers: nullcontext(there))
        assert main(words) == status
        said = capsys.readouterr().err
        kept = f"{out}.begun keeps what is done: the same command goes on."
        assert (kept in said) == (stop is not None)
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == {out.name}
