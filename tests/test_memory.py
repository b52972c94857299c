import mmap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from padim import memory
from padim.errors import UsageError
from padim.memory import format_bytes, parse_bytes, resident_bytes, watch_peak


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("1500000000", 1_500_000_000),
        ("800MB", 800_000_000),
        ("2GiB", 2 * 2**30),
        ("1.5 GiB", 3 * 2**29),
        (" 512 kib ", 512 * 1024),
        ("0.5TB", 500_000_000_000),
        ("3kB", 3000),
        ("7 B", 7),
        ("0", 0),
        ("1TiB", 2**40),
        ("4MiB", 4 * 2**20),
    ],
)
def test_an_amount_of_memory_is_read(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "much", "-1GB", "1 GB 2", "1e9", "2Gb/s", "GB", "1,5GB", "7iB", "7 K"]
)
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no amount of memory\. Try 800MB, 2GiB or"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.50 kB"),
        (812_000_000, "812 MB"),
        (2_345_000_000, "2.35 GB"),
        (45_000_000_000, "45 GB"),
        (18_776_488, "19 MB"),
    ],
)
def test_an_amount_of_memory_is_written_for_a_person(n_bytes: int, text: str) -> None:
    assert format_bytes(n_bytes) == text


def take(n_bytes: int) -> mmap.mmap:
    """Fresh pages, where the heap might give used ones."""
    large = mmap.mmap(-1, n_bytes)
    np.frombuffer(large, np.uint8)[:] = 1
    return large


@pytest.mark.skipif(watch_peak()() is None, reason="the system does not reset the peak")
def test_the_peak_is_the_most_since_it_was_watched() -> None:
    peak = watch_peak()
    before = resident_bytes()
    large = take(100_000_000)
    assert resident_bytes() - before == pytest.approx(100_000_000, rel=0.05)
    large.close()
    assert (peak() or 0) - before == pytest.approx(100_000_000, rel=0.1)
    again = watch_peak()
    assert (again() or 0) - before < 50_000_000


@pytest.fixture
def no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is not there stands in for a system without /proc."""
    monkeypatch.setattr(memory, "Path", lambda path: Path("/no/such/folder") / path[1:])


@pytest.mark.usefixtures("no_proc")
def test_where_no_peak_is_told_as_on_macos_there_is_none_simulated() -> None:
    assert watch_peak()() is None
    assert resident_bytes() > 10_000_000


@pytest.mark.usefixtures("no_proc")
def test_a_peak_since_the_start_as_on_windows_counts_once_it_rises_simulated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = SimpleNamespace(rss=5, peak_wset=800)  # as psutil has it there
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: told))
    peak = watch_peak()
    assert peak() is None  # whatever was held since, 800 was before
    told.peak_wset = 900
    assert peak() == 900
