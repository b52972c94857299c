import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta

from padim.documents import Document, Finite, Sha256, Side
from padim.errors import DatasetError

DOCUMENT = Document("list.json", DatasetError, "Fetch it anew.")


@dataclass(frozen=True)
class Box:
    size_px: tuple[Side, Side]
    inside: tuple["Box", ...] = ()
    share: Finite = 0.0
    name: Annotated[str, Meta(max_length=8)] = ""

    def __post_init__(self) -> None:
        if any(box.size_px > self.size_px for box in self.inside):
            raise ValueError("a box holds a larger one")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"it is no JSON \(Expecting value: .*\)"),
        ("[" * 200_000, "it is no JSON"),
        ("[" * 40 + "]" * 40, "it is nested more than 32 deep"),
        ('{"a": ' * 40 + "0" + "}" * 40, "it is nested more than 32 deep"),
        ("[NaN]", r"it is no JSON \(NaN is no number\)"),
        ("-Infinity", "-Infinity is no number"),
        ("[1, [1e999]]", "a number in it is not finite"),
        ('{"a": -1e999}', "a number in it is not finite"),
        ("9" * 5000, "it is no JSON"),
        (b"\xff\xfe\xfd", "it is no JSON"),
    ],
    ids=range(10),
)
def test_what_is_no_plain_json_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(
        DatasetError, match=rf"^list\.json cannot be understood: .*{reason}.*\. Fetch it anew\.$"
    ):
        DOCUMENT.parse(text)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + " " * (1 << 20) + "]")
    assert DOCUMENT.read(path) == []
    with pytest.raises(DatasetError, match="it has more than 1 MiB"):
        DOCUMENT.read(path, most_bytes=1 << 20)


def test_what_is_no_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(DatasetError, match="it is no file"):
        DOCUMENT.read(path)
    path = tmp_path / "none"
    with pytest.raises(FileNotFoundError):
        DOCUMENT.read(path)


def test_plain_json_is_read_as_python_wrote_it() -> None:
    data = {"name of bytes": "\udcff", "n": [1, 2.5, None, True, 10**30], "deep": [[[[0.1 + 0.2]]]]}
    assert DOCUMENT.parse(json.dumps(data)) == data


def test_a_table_is_filled() -> None:
    data = {"size_px": [3, 4], "inside": [{"size_px": [1, 2], "more": 1}], "share": 1}
    assert DOCUMENT.restore(data, Box) == Box((3, 4), (Box((1, 2)),), 1.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size_px": [3]}, "at size_px, expected array of length 2, got 1"),
        ({"size_px": [3, 0]}, r"at size_px\[1\], expected int >= 1"),
        ({"size_px": [3, 10**9]}, r"at size_px\[1\], expected int <= 65536"),
        ({"size_px": [3, 4.0]}, r"at size_px\[1\], expected int, got float"),
        ({"size_px": [True, 4]}, r"at size_px\[0\], expected int, got bool"),
        ({"size_px": None}, "at size_px, expected array, got null"),
        ({"inside": [{}]}, r"at inside\[0\], object missing required field size_px"),
        ({"inside": [{"size_px": [9, 9]}]}, "a box holds a larger one"),
        ({"share": math.inf}, "at share, expected float <= 1.7e"),
        ({"share": math.nan}, "at share, expected float >= -1.7e"),
        ({"name": "a" * 9}, "at name, expected str of length <= 8"),
    ],
    ids=range(11),
)
def test_what_does_not_fit_its_table_is_refused_by_its_place(
    change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(
        DatasetError, match=rf"^list\.json cannot be understood: {reason}.*\. Fetch it anew\.$"
    ):
        DOCUMENT.restore({"size_px": [3, 4]} | change, Box)


def test_a_hash_is_64_digits() -> None:
    assert DOCUMENT.restore("a1" * 32, Sha256)
    for text in ("a1" * 31, "g1" * 32, "A1" * 32, ""):
        with pytest.raises(DatasetError, match="matching regex"):
            DOCUMENT.restore(text, Sha256)
