from pathlib import Path

import pytest
from darkness import make_predictor

from padim.scoring.predictor import Predictor


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return make_predictor(tmp_path)
