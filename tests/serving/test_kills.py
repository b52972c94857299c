from pathlib import Path

import pytest

from serving.kills import run


# Connections that a kill cuts are left to the collector by urllib.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_nothing_is_lost_or_done_twice_when_the_station_is_killed(tmp_path: Path) -> None:
    sent, wrong = run(tmp_path, n_kills=3, seed=1)
    assert wrong == []
    assert sent.n_kills == 3
    assert sent.answers
