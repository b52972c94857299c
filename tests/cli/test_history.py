import csv
import io
import json
from pathlib import Path

import pytest

from padim.cli import main
from padim.store.inspection import Arrival, Findings, Inspection, Verdict, name_inspection, refuse
from padim.store.record import Record
from padim.store.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A service that has inspected three parts."""
    store = Store.open(str(tmp_path / "history.db"))
    for n, verdict in enumerate((Verdict.OK, Verdict.NOK, Verdict.NOT_INSPECTED)):
        time_s = 1_700_000_000.0 + n
        arrival = Arrival(
            name_inspection(time_s), "part", time_s, "http", None, f"S{n}", {"a": "b"}
        )
        findings = Findings(None, 1.5, 0.25, 2.0, "tail", "normal", (), (1.0,), "quiet")
        if verdict is Verdict.NOT_INSPECTED:
            found = refuse(arrival, "=cmd|' /C calc'!A0")
        else:
            found = Inspection(arrival, verdict, time_s, findings=findings)
        store.accept([arrival])
        store.finish([found], {})
    store.close()
    return tmp_path


def test_the_newest_come_first_and_all_are_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", str(folder), "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2:3] for line in lines[1:3]] == [["NOT"], ["NOK"]]
    assert lines[-1] == "1 OK, 1 NOK, 1 NOT INSPECTED. The newest 2 are shown."


def test_a_part_is_called_by_its_serial_its_file_or_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(str(tmp_path / "history.db"))
    time_s = 1_700_000_000.0
    tags = {"file": "lid 4.png"}
    for serial, own in (("S1", tags), (None, tags), (None, {})):
        name = name_inspection(time_s)
        arrival = Arrival(name, "part", time_s, "folder", None, serial, own)
        store.accept([arrival])
        store.finish([refuse(arrival, "It is empty.")], {})
    store.close()
    assert main(["history", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("lid 4.png") == said.count("S1") == said.count(name) == 1


@pytest.mark.parametrize(
    ("words", "serials"),
    [
        ([], ["S2", "S1", "S0"]),
        (["--verdict", "not_inspected"], ["S2"]),
        (["--serial", "S1"], ["S1"]),
        (["--tag", "a=b", "--until", "2023-11-14T22:13:21+00:00"], ["S0"]),
        (["--since", "2023-11-14T22:13:21+00:00", "--recipe", "part"], ["S2", "S1"]),
        (["--recipe", "other"], []),
        (["--limit", "0"], ["S2", "S1", "S0"]),
        (["--limit", "3"], ["S2", "S1", "S0"]),
    ],
)
def test_filters_leave_in_what_fits(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    serials: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("padim.cli.history_command._ROWS", 2)
    assert main(["history", str(folder), "--json", *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["serial"] for one in document["inspections"]] == serials
    assert sum(document["counts"].values()) == len(serials)
    assert main(["history", str(folder), "--csv", *words]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["serial"] for row in rows] == serials
    assert all(list(row) == Record.names() for row in rows)


def test_a_table_computes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(folder / "history.db"), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["verdict"] for row in rows] == ["NOT INSPECTED", "NOK", "OK"]
    assert rows[0]["reason"].startswith("'=cmd")
    assert json.loads(rows[1]["tags"]) == {"a": "b"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--verdict", "good"], "There is no verdict 'good'."),
        (["--tag", "a"], "--tag is 'a', but needs a key and a value."),
        (["--since", "yesterday"], "'yesterday' is no time."),
        (["--until", "0001-01-01"], "'0001-01-01' is no time."),
        (["--limit", "-1"], "--limit is -1, but needs to be 0 or more."),
        (["--csv", "--json"], "A listing is CSV or JSON."),
    ],
)
def test_wrong_usage_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["history", str(folder), *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err + captured.out


def test_a_database_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", str(tmp_path)]) == 2
    assert "history.db does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "status", "sentence"),
    [
        ("none.db", 2, "does not exist"),
        (".", 2, "does not exist"),
        ("text", 1, "file is not a database"),
        ("empty", 1, "holds no inspections"),
        ("nothing://x", 2, "is no database that is understood"),
    ],
)
def test_what_is_no_database_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    status: int,
    sentence: str,
) -> None:
    (tmp_path / "text").write_text("This is a text, and no database." * 100)
    (tmp_path / "empty").touch()
    place = name if "://" in name else str(tmp_path / name)
    assert main(["history", place]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert err.count("\n") == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["empty", "text"]


def test_a_service_that_runs_is_not_held_up(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(str(folder / "history.db"))
    with store._engine.begin():  # it writes
        assert main(["history", str(folder), "-q"]) == 0
    store.close()
    assert "1 OK" in capsys.readouterr().out
