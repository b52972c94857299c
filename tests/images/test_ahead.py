import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from padim.errors import ImageReadError
from padim.images.ahead import batched, load_ahead, map_ahead, map_within
from padim.images.decode import Hold


def test_results_come_in_order_while_memory_is_bounded() -> None:
    sizes, limit = [60, 50, 1, 250, 10, 90, 20, 5, 100, 40] * 5, 100
    held: dict[int, int] = {}
    most, lock = [0], threading.Lock()

    def work(numbered: tuple[int, int], hold: Hold) -> int:
        place, n_bytes = numbered
        hold(n_bytes)
        with lock:
            held[place] = n_bytes
            most.append(sum(held.values()) if len(held) > 1 else 0)
        return place

    found = []
    for place in map_within(work, enumerate(sizes), 4, 8, limit):
        found.append(place)
        with lock:
            del held[place]

    assert found == list(range(len(sizes)))
    # What a caller has just taken counts for him, until he asks for the next.
    assert 0 < max(most) <= limit


def test_one_larger_than_the_bound_goes_alone() -> None:
    def work(n_bytes: int, hold: Hold) -> int:
        hold(n_bytes)
        return n_bytes

    assert list(map_within(work, [5, 500, 700, 5], 2, 4, n_bytes=10)) == [5, 500, 700, 5]


def test_whoever_takes_nothing_or_fails_lets_the_next_one_go_on() -> None:
    def work(i: int, hold: Hold) -> int:
        if i % 3 == 0:
            return i
        hold(9)
        hold(2)
        if i == 7:
            raise ValueError("seven")
        return i

    found = []
    with pytest.raises(ValueError, match="seven"):  # noqa: PT012  # what came before it counts
        for i in map_within(work, range(12), 3, 6, n_bytes=10):
            found.append(i)
    assert found == list(range(7))


def test_nobody_waits_for_memory_once_the_caller_has_gone() -> None:
    def work(_: int, hold: Hold) -> None:
        hold(10)

    results = map_within(work, range(100), 4, 50, n_bytes=10)
    next(results)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(results.close).result(timeout=20)  # type: ignore[attr-defined]  # a generator


def camera(n_frames: int) -> Iterator[Image.Image]:
    for level in range(n_frames):
        yield Image.new("L", (4, 3), level)
    raise OSError("the camera is gone")


@pytest.mark.parametrize("n_ahead", [1, 3, 16])
def test_what_was_taken_before_an_error_is_given_before_it(n_ahead: int) -> None:
    def bring(image: Image.Image | np.ndarray) -> np.ndarray:
        return np.asarray(image)

    seen: list[int] = []
    with pytest.raises(OSError, match="the camera is gone"):  # noqa: PT012  # what came before
        for group in batched(load_ahead(camera(5), bring, n_ahead=n_ahead), 4):
            seen += [int(image.pixels.max()) for image in group]
    assert seen == [0, 1, 2, 3, 4]


def test_images_before_an_unreadable_one_are_given_before_its_error(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    paths = [tmp_path / "a.png", tmp_path / "absent.png", tmp_path / "a.png"]
    groups = []
    with pytest.raises(ImageReadError, match="absent"):  # noqa: PT012  # what came before it counts
        for group in batched(load_ahead(paths, np.asarray), 8):
            groups.append([image.path for image in group])
    assert groups == [paths[:1]]


def test_work_that_fails_does_so_in_its_place() -> None:
    results = map_ahead(lambda i: 1 // (2 - i), range(5), 2, 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
