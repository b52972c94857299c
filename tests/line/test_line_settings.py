import tomllib
from pathlib import Path

import pytest
from pages import ROOT, fences

from padim.errors import PadimError, UnknownNameError, UsageError
from padim.line.build import Receivers
from padim.line.errors import LineError
from padim.line.settings import FileSettings, read_secret, read_sinks, read_sources

TOML = """
[[sources]]
kind = "folder"
name = "camera"
path = "incoming"

[[sources]]
kind = "mqtt"
name = "trigger"
host = "broker"
client = "station-1"
topic = "line/+/trigger"
ca = "ca.pem"

[[sinks]]
kind = "mqtt"
name = "plc"
host = "broker"
client = "station-1-results"

[[sinks]]
kind = "webhook"
name = "mes"
url = "https://mes.example/verdicts"
recipes = ["part"]

[[sinks]]
kind = "file"
name = "table"
path = "results-{day}.csv"
"""


def test_tables_are_told_apart_by_their_kind_and_name_files_from_where_they_lie() -> None:
    table = tomllib.loads(TOML)
    folder, trigger = read_sources(table["sources"], Path("/plant/station.toml"))
    plc, mes, results = read_sinks(table["sinks"], Path("/plant/station.toml"))
    assert (folder.path, folder.done_path) == (
        Path("/plant/incoming"),
        Path("/plant/incoming/done"),
    )
    assert (trigger.ca, trigger.address) == (Path("/plant/ca.pem"), ("broker", 8883))
    assert plc.address == ("broker", 1883)
    assert results.path == Path("/plant/results-{day}.csv")
    receivers = Receivers((plc, mes, results))
    assert receivers["part"] == ("plc", "mes", "table")
    assert receivers.get("one that was sent later", ()) == ("plc", "table")


BROKER = 'kind = "mqtt"\nname = "m"\nhost = "h"\nclient = "c"\n'


@pytest.mark.parametrize(
    ("which", "text", "words"),
    [
        ("sources", 'kind = "foldr"', "Did you mean 'folder'?"),
        ("sources", 'name = "a"', "There is no kind of source 'None' in station.toml. Known: "),
        ("sources", 'kind = "folder"\nname = "a"\npath = "p"\npol_s = 1', "Did you mean 'poll_s'?"),
        (
            "sources",
            'kind = "folder"\nname = "a"\npath = "p"\npoll_s = 0',
            "poll_s: expected float",
        ),
        ("sources", 'kind = "folder"\nname = "a"\npath = "p"\ndone = "p"', "three folders"),
        ("sources", 'kind = "folder"\nname = "a"', "missing required field path"),
        ("sources", f'{BROKER}topic = "a/#/b"', "# is the last"),
        ("sources", f'{BROKER}topic = "a+"', "stand alone between slashes"),
        ("sources", f'{BROKER}topic = "a"\npassword = "secret"', "Did you mean 'password_"),
        ("sources", f'{BROKER}topic = "a"\npassword_variable = "P"', "needs a user as well"),
        ("sources", f'{BROKER}topic = "a"\nkey = "k.pem"', "needs a certificate as well"),
        ("sinks", f'{BROKER}topic = "a/+"', "has no + and no #"),
        ("sinks", f'{BROKER}version = "4"', "version"),
        ("sinks", 'kind = "webhook"\nname = "w"\nurl = "ftp://x"', "url"),
        ("sinks", 'kind = "webhook"\nname = "w"\nurl = "http://u:p@x/"', "use a token"),
        ("sinks", 'kind = "webhook"\nname = "w"\nurl = "http://x:99999/"', "ort out of range"),
    ],
)
def test_a_slip_is_named_in_a_sentence(which: str, text: str, words: str) -> None:
    table = tomllib.loads(f"[[{which}]]\n{text}")
    read = read_sources if which == "sources" else read_sinks
    with pytest.raises(UsageError) as caught:
        read(table[which], Path("station.toml"))
    assert words in str(caught.value)
    assert "station.toml" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_two_of_one_name_are_refused() -> None:
    sink = {"kind": "file", "name": "table", "path": "a.csv"}
    with pytest.raises(UsageError, match="two are named 'table'"):
        read_sinks([sink, sink], Path("station.toml"))


def test_an_unknown_kind_is_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="Known: mqtt, webhook, file"):
        read_sinks([{"kind": "opcua", "name": "a"}], Path("station.toml"))


def test_tables_that_are_no_list_are_refused() -> None:
    with pytest.raises(UsageError, match=r"Begin each with \[\[sinks\]\]"):
        read_sinks({"table": {}}, Path("station.toml"))


def test_a_secret_comes_from_the_environment_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_text("from a file\n")
    monkeypatch.setenv("SECRET", "from the environment")
    assert read_secret("SECRET", None, "It") == "from the environment"
    assert read_secret(None, file, "It") == "from a file"
    assert read_secret(None, None, "It") is None


@pytest.mark.parametrize(
    ("variable", "content", "words"),
    [
        ("MISSING", None, "needs the environment variable MISSING, which is not set"),
        (None, None, "No such file"),
        (None, b"\n", "is empty"),
        (None, b"\xff", "it is no text"),
    ],
)
def test_a_secret_that_is_not_there_lasts(
    variable: str | None, content: bytes | None, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PadimError, match=words) as caught:
        read_secret(variable, file, "The sink plc")
    assert isinstance(caught.value, LineError)
    assert caught.value.is_lasting


def test_a_file_is_a_table_by_its_suffix() -> None:
    (sink,) = read_sinks([{"kind": "file", "name": "t", "path": "a.csv"}], Path("/s/station.toml"))
    assert sink == FileSettings(name="t", path=Path("/s/a.csv"))


@pytest.mark.parametrize("page", ["sources", "wiring"])
def test_what_a_page_shows_is_understood(page: str) -> None:
    shown = fences(ROOT / f"docs/howto/{page}.md", "toml")
    assert shown
    for _, content, _ in shown:
        table = tomllib.loads(content)
        path = Path("/s/station.toml")
        assert read_sources(table.get("sources", []), path) or read_sinks(table["sinks"], path)
