import hashlib
import os
import time
from pathlib import Path

import pytest

from padim.store.inspection import Arrival, Findings, Inspection, Verdict, name_inspection, refuse
from padim.store.pictures import Pictures, Retention


def judge(content: bytes, verdict: Verdict = Verdict.OK, number: int = 0) -> Inspection:
    arrival = Arrival(name_inspection(float(number)), "part", 1.0, "camera")
    sha256 = hashlib.sha256(content).hexdigest()
    if verdict is Verdict.NOT_INSPECTED:
        return refuse(arrival, "Lost.", image_sha256=sha256)
    findings = Findings(None, 1.0, 0.5, 2.0, "tail", "normal", (), (), "quiet")
    return Inspection(arrival, verdict, 2.0, "", sha256, len(content), findings)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(pictures: Pictures, content: bytes, verdict: Verdict, age_s: float = 0.0) -> None:
    inspection = judge(content, verdict)
    assert pictures.keep(inspection, content)
    if age_s:
        (path,) = (one for one in pictures._folder.glob(f"*/??/{sha(content)}"))
        os.utime(path, (time.time() - age_s,) * 2)


@pytest.mark.parametrize("verdict", [Verdict.NOK, Verdict.NOT_INSPECTED])
def test_all_but_ok_are_kept(tmp_path: Path, verdict: Verdict) -> None:
    pictures = Pictures(tmp_path, Retention(ok_every=0, free_bytes=0))
    assert pictures.keep(judge(b"picture", verdict), b"picture")
    assert pictures.read(sha(b"picture")) == b"picture"
    assert pictures.read(sha(b"other")) is None


def test_one_in_so_many_ok_is_kept_the_same_each_time(tmp_path: Path) -> None:
    found = [judge(b"%d" % n, number=n) for n in range(2000)]
    kept = []
    for folder in ("first", "again"):
        pictures = Pictures(tmp_path / folder, Retention(ok_every=10, free_bytes=0))
        kept.append([pictures.keep(one, b"%d" % n) for n, one in enumerate(found)])
    assert kept[0] == kept[1]
    assert 140 < sum(kept[0]) < 260
    none = Pictures(tmp_path / "none", Retention(ok_every=0, free_bytes=0))
    assert not any(none.keep(one, b"x") for one in found[:50])


def test_disputed_ones_are_kept(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path, Retention(ok_every=0, free_bytes=0))
    assert pictures.keep_disputed(judge(b"x"), b"x")
    assert pictures.read(sha(b"x")) == b"x"


def test_the_quota_takes_the_oldest_ok_ones_first(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path, Retention(ok_every=1, most_bytes=1000, free_bytes=0))
    put(pictures, b"a" * 300, Verdict.NOK, age_s=500)
    put(pictures, b"b" * 300, Verdict.OK, age_s=400)
    put(pictures, b"c" * 300, Verdict.OK, age_s=300)
    put(pictures, b"d" * 300, Verdict.NOK)
    kept = [one for one in (b"a", b"b", b"c", b"d") if pictures.read(sha(one * 300))]
    assert kept == [b"a", b"c", b"d"]
    put(pictures, b"e" * 900, Verdict.NOK)
    assert pictures.read(sha(b"e" * 900))
    assert sum(one.stat().st_size for one in tmp_path.glob("*/??/*")) <= 1000


def test_the_quota_holds_over_a_restart(tmp_path: Path) -> None:
    retention = Retention(ok_every=1, most_bytes=1000, free_bytes=0)
    put(Pictures(tmp_path, retention), b"a" * 600, Verdict.NOK, age_s=100)
    put(Pictures(tmp_path, retention), b"b" * 600, Verdict.NOK)
    assert [one.stat().st_size for one in tmp_path.glob("*/??/*")] == [600]


def test_a_picture_larger_than_the_quota_is_not_kept(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path, Retention(ok_every=1, most_bytes=100, free_bytes=0))
    put(pictures, b"b" * 50, Verdict.NOK)
    assert not pictures.keep(judge(b"a" * 101, Verdict.NOK), b"a" * 101)
    assert pictures.read(sha(b"b" * 50))  # which would have gone for nothing


def test_a_disk_that_is_nearly_full_counts_as_over_the_quota(tmp_path: Path) -> None:
    put(Pictures(tmp_path, Retention(free_bytes=0)), b"a" * 100, Verdict.NOK, age_s=100)
    pictures = Pictures(tmp_path, Retention(free_bytes=1 << 60))
    assert not pictures.keep(judge(b"b" * 100, Verdict.NOK), b"b" * 100)
    assert not list(tmp_path.glob("*/??/*"))
