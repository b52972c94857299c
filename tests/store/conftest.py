from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from postgres import find_binaries, run_postgres

from padim.store.store import Store


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with run_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield str(tmp_path / "history.db")
        return
    if find_binaries() is None:
        pytest.skip("this machine has no PostgreSQL")
    url = request.getfixturevalue("server")
    admin = sa.create_engine(
        url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    name = f"test_{abs(hash(str(tmp_path))):x}"
    with ExitStack() as stack:
        stack.callback(admin.dispose)
        connection = stack.enter_context(admin.connect())
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
        yield url.replace("/postgres", f"/{name}")


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    opened = Store.open(place)
    yield opened
    opened.close()
