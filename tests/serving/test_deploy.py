import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


def read_steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, with their lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip()) for word, _, rest in (x.partition(" ") for x in joined.split("\n"))
    ]


def test_the_container_runs_as_nobody_of_power_and_fetches_nothing() -> None:
    steps = read_steps()
    begin = max(place for place, (word, _) in enumerate(steps) if word == "FROM")
    final = steps[begin:]
    assert final[0] == ("FROM", "python:3.11-slim")
    users = [rest for word, rest in final if word == "USER"]
    assert len(users) == 1
    assert int(users[0]) > 0
    after = final[final.index(("USER", users[0])) :]
    assert not [rest for word, rest in after if word in ("RUN", "COPY", "ADD")]
    assert not [rest for word, rest in steps if word == "ADD"]
    fetching = r"\b(pip|apt|apt-get|curl|wget|git)\b"
    assert not [rest for word, rest in final if word == "RUN" and re.search(fetching, rest)]
    assert ("VOLUME", "/data") in final
    assert ("STOPSIGNAL", "SIGTERM") in final


def test_the_container_asks_whether_it_is_ready() -> None:
    words = dict(read_steps())
    assert "/readyz" in words["HEALTHCHECK"]
    listens = re.search(r"127\.0\.0\.1:(\d+)", words["HEALTHCHECK"])
    assert listens is not None
    assert listens[1] == words["EXPOSE"]
    assert "--data" in words["ENTRYPOINT"]


def test_what_is_copied_into_the_container_is_there() -> None:
    copied = [rest.split()[:-1] for word, rest in read_steps() if word == "COPY"]
    names = [name for one in copied for name in one if not name.startswith(("--", "/"))]
    assert names
    assert all((DEPLOY.parent / name).exists() for name in names)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is needed")
def test_systemd_has_nothing_to_say_of_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "padim.service").read_text(encoding="utf-8")
    unit = tmp_path / "padim.service"
    # It looks for the program, which is elsewhere here.
    unit.write_text(text.replace("/opt/padim/bin/padim", sys.executable), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60
    )
    said = [line for line in done.stderr.splitlines() if "padim.service" in line]
    assert (done.returncode, said) == (0, [])
