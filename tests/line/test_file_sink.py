import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from inspections import NOON_S, end, make_arrival, make_inspection

from padim.line import files
from padim.line.errors import SinkError
from padim.line.files import FileSink
from padim.line.settings import FileSettings
from padim.store.inspection import Inspection, Verdict, refuse
from padim.store.record import Record

VERDICTS = (Verdict.OK, Verdict.NOK, Verdict.NOT_INSPECTED)


@pytest.fixture(params=["results.csv", "results.jsonl"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "out" / request.param


def write(path: Path, *inspections: Inspection) -> FileSink:
    sink = FileSink(FileSettings(name="table", path=path))
    sink.open()
    sink.deliver(inspections)
    sink.close()
    return sink


def read_ids(path: Path) -> list[str]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return [row["id"] for row in csv.DictReader(file)]
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]


def ids(inspections: list[Inspection]) -> list[str]:
    return [one.arrival.id for one in inspections]


def test_a_row_has_all_of_a_record(path: Path) -> None:
    found = [make_inspection(verdict) for verdict in VERDICTS]
    write(path, *found)
    records = [Record.of(one).to_dict() for one in found]
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        assert [json.loads(line) for line in lines] == json.loads(json.dumps(records))
        return
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == Record.names()
    assert [row["verdict"] for row in rows] == ["OK", "NOK", "NOT INSPECTED"]
    assert rows[1]["score"] == "5.0"
    assert json.loads(rows[1]["regions"])[0]["x"] == 1
    assert rows[2]["score"] == ""


def test_a_row_that_is_there_is_not_written_again(path: Path) -> None:
    found = [make_inspection() for _ in range(5)]
    sink = write(path, *found[:3])
    sink.deliver(found[:4])
    write(path, *found)
    assert read_ids(path) == ids(found)


def test_half_a_line_is_cut_off_and_written_whole(path: Path) -> None:
    found = [make_inspection() for _ in range(3)]
    write(path, *found)
    whole = path.read_bytes()
    for n_bytes in range(1, len(whole), 7):
        path.write_bytes(whole[:n_bytes])
        write(path, *found)
        assert path.read_bytes() == whole


def test_zeros_that_a_power_failure_leaves_are_cut_off(path: Path) -> None:
    found = [make_inspection() for _ in range(3)]
    write(path, *found)
    whole = path.read_bytes()
    for kept in (0, 1, len(whole) // 2, len(whole)):
        path.write_bytes(whole[:kept] + bytes(5000))
        write(path, *found)
        assert path.read_bytes() == whole


def test_a_write_that_fails_halfway_is_made_up_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [make_inspection() for _ in range(4)]
    sink = write(path, *found[:2])
    with path.open("ab") as file:
        file.write(b'{"id": "half')  # what a full disk has taken of it
    sink.deliver(found)
    assert read_ids(path) == ids(found)


def test_a_file_that_is_moved_away_is_begun_anew(path: Path) -> None:
    found = [make_inspection() for _ in range(2)]
    sink = write(path, found[0])
    path.rename(path.with_name("yesterday"))
    sink.deliver(found[1:])
    assert read_ids(path) == ids(found[1:])


def test_a_file_of_another_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("name,price\nscrew,1\n")
    sink = FileSink(FileSettings(name="table", path=path))
    sink.open()
    with pytest.raises(SinkError, match="does not begin as a file of records does") as caught:
        sink.deliver([make_inspection()])
    assert caught.value.is_lasting
    assert path.read_text() == "name,price\nscrew,1\n"


def test_one_endless_line_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_TAIL_BYTES", 100)
    write(path, make_inspection())
    with path.open("ab") as file:
        file.write(b"x" * 1000)
    before = path.read_bytes()
    sink = FileSink(FileSettings(name="table", path=path))
    with pytest.raises(SinkError, match="which is no record"):
        sink.deliver([make_inspection()])
    assert path.read_bytes() == before


def test_a_spreadsheet_computes_nothing(tmp_path: Path) -> None:
    arrival = make_arrival(serial="=HYPERLINK(1)", tags={"a": "two\nlines"})
    path = tmp_path / "results.csv"
    write(path, end(arrival), refuse(make_arrival(), "A reason\r\nof two lines."))
    assert len(path.read_bytes().splitlines()) == 3
    with path.open(newline="") as file:
        row, refused = csv.DictReader(file)
    assert row["serial"] == "'=HYPERLINK(1)"
    assert json.loads(row["tags"]) == {"a": "two\nlines"}
    assert refused["reason"] == "A reason of two lines."


def test_a_day_has_a_file_of_its_own(tmp_path: Path) -> None:
    days = [end(make_arrival(), finished_s=NOON_S + n * 86400) for n in (0, 0, 1)]
    sink = write(tmp_path / "results-{day}.jsonl", *days)
    sink.deliver(days)
    first, second = sorted(tmp_path.iterdir())
    assert (first.name, second.name) == ("results-2026-09-21.jsonl", "results-2026-09-22.jsonl")
    assert read_ids(first) == ids(days[:2])
    assert read_ids(second) == ids(days[2:])


def test_text_that_is_no_unicode_is_written_all_the_same(path: Path) -> None:
    write(path, end(replace(make_arrival(), serial="part-\udcff")))
    assert len(read_ids(path)) == 1
