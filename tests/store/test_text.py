import json
import time
from pathlib import Path

import pytest

from padim.store.inspection import Arrival, name_inspection, refuse
from padim.store.store import Store


@pytest.mark.parametrize("bad", ["a\0b", "a\udc80b", json.loads('"a\\ud800b"')])
def test_text_that_no_database_takes_is_replaced(tmp_path: Path, bad: str) -> None:
    store = Store.open(str(tmp_path / "history.db"))
    now_s = time.time()
    arrival = Arrival(name_inspection(now_s), bad, now_s, bad, bad, bad, {bad: bad})
    assert (arrival.recipe, arrival.source, arrival.serial) == ("a?b", "a?b", "a?b")
    assert store.accept([arrival]) == [arrival]
    inspection = refuse(arrival, f"{bad} is unknown.")
    store.finish([inspection], {})
    assert store.get(arrival.id) == inspection
    assert inspection.arrival.tags == {"a?b": "a?b"}
    assert inspection.reason == "a?b is unknown."
    store.close()


def test_other_text_stays_as_it_is() -> None:
    tags = {"Schicht": "früh 早 🙂"}
    assert Arrival("1", "part", 1.0, "http", "ключ", None, tags).tags is tags
