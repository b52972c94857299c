"""``padim history``."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from padim.cli.console import Output, result, table
from padim.cli.options import option
from padim.errors import PathMissingError, UnknownNameError, UsageError, require_extras
from padim.files import csv_cell

if TYPE_CHECKING:
    from padim.store.filter import Filter
    from padim.store.inspection import Verdict
    from padim.store.record import Record
    from padim.store.store import Store

_ROWS = 1000  # read at a time


def history(
    database: Annotated[
        str, typer.Argument(help="Folder of a service, its database file, or a URL.")
    ],
    recipe: Annotated[str | None, option("Only what this inspected.", "NAME")] = None,
    verdict: Annotated[str | None, option("Only OK, NOK or NOT INSPECTED.", "WORD")] = None,
    serial: Annotated[str | None, option("Only this part.", "TEXT")] = None,
    tag: Annotated[
        list[str] | None, option("Only with this key of the part; repeatable.", "KEY=VALUE")
    ] = None,
    since: Annotated[str | None, option("Only from then on: 2026-11-27T14:00.", "TIME")] = None,
    until: Annotated[str | None, option("Only before.", "TIME")] = None,
    limit: Annotated[int, option("Of the newest, at most; 0 for all.", "N")] = 50,
    as_csv: Annotated[bool, option("A table for a spreadsheet.", None, "--csv")] = False,
) -> None:
    """List what a service has inspected, the newest first."""
    require_extras("serve")
    from padim.store.filter import Filter
    from padim.store.record import Record
    from padim.store.store import Store

    if limit < 0:
        raise UsageError(f"--limit is {limit}, but needs to be 0 or more. Try 50.")
    if as_csv and Output.as_json:
        raise UsageError("A listing is CSV or JSON. Leave --csv or --json out.")
    wanted = Filter(
        recipe,
        None if verdict is None else _read_verdict(verdict),
        serial,
        dict(_read_tag(one) for one in tag or ()),
        _read_time(since),
        _read_time(until),
    )
    with closing(Store.open_to_read(_find_database(database))) as store:
        found = _find(store, wanted, limit)
        if as_csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(Record.names())
            writer.writerows([csv_cell(cell) for cell in one.to_cells()] for one in found)
            return
        records = list(found)
        counts = {one.value: n for one, n in store.count_verdicts(wanted).items()}
    total = ", ".join(f"{n} {word}" for word, n in counts.items())
    shown = "" if len(records) == sum(counts.values()) else f" The newest {len(records)} are shown."
    result(
        {"counts": counts, "inspections": [one.to_dict() for one in records]},
        _list_rows(records) + f"{total}.{shown}",
    )


def _find(store: "Store", wanted: "Filter", limit: int) -> "Iterator[Record]":
    """The newest inspections, or all of them, read a part at a time."""
    from padim.store.record import Record

    n_found = 0
    before: str | None = None
    while part := store.find(wanted, min(limit - n_found, _ROWS) if limit else _ROWS, before):
        yield from map(Record.of, part)
        n_found += len(part)
        before = part[-1].arrival.id
        if n_found == limit:
            return


def _list_rows(records: "Sequence[Record]") -> str:
    """A table for a person, with what says most."""
    if not records:
        return ""
    rows = [
        (
            one.arrived,
            one.recipe,
            one.verdict,
            "" if one.score is None else f"{one.score:.4g}",
            "" if one.p_value is None else f"{one.p_value:.2g}",
            one.serial or one.tags.get("file") or one.id,
            one.reason,
        )
        for one in records
    ]
    heads = ("arrived", "recipe", "verdict", "score", "p", "part", "reason")
    return table(heads, rows) + "\n"


def _read_verdict(text: str) -> "Verdict":
    from padim.store.inspection import Verdict

    found = {one.value: one for one in Verdict}
    word = text.upper().replace("_", " ")
    if word not in found:
        raise UnknownNameError("verdict", text, tuple(found))
    return found[word]


def _find_database(place: str) -> str:
    """The database of a folder, or what is named itself."""
    if "://" in place:
        return place
    path = Path(place)
    path = path / "history.db" if path.is_dir() else path
    if not path.is_file():
        raise PathMissingError(path)
    return str(path)


def _read_tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--tag is {text!r}, but needs a key and a value. Try --tag shift=2.")
    return name, value


def _read_time(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()  # of this machine's zone, without one
    except (ValueError, OverflowError) as error:  # of words; of a year far away
        raise UsageError(
            f"{text!r} is no time. Write it as 2026-11-27, or 2026-11-27T14:00."
        ) from error
