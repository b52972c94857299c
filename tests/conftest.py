import gc
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("padim", deadline=None, derandomize=True)
settings.load_profile("padim")

# Trunks are written as graphs into the user's cache: not those of the tests, whose processes share
# one.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="padim-cache-")
    os.environ["XDG_CACHE_HOME"] = _cache.name

# The processes of the tests share the cores: where a library is not told how many threads to take,
# it takes one. Libraries read this when they are loaded, and commands tell them.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Many tests start a Python, which else would compile this package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What takes longest comes first, so that no process is left alone with it at the end. A file that
# is not named here is in time anywhere.
LONGEST = (
    "tests/fitting/test_fit_memory.py",
    "tests/workers/test_ray_cluster.py",
    "tests/test_pages.py",
    "tests/method/test_method.py",
    "tests/evaluation/test_run_again.py",
    "tests/hostile/test_hostile.py",
    "tests/features/test_intermediates.py",
    "tests/fitting/test_update.py",
    "tests/model/test_export.py",
    "tests/features/test_network.py",
    "tests/docs/test_notebooks.py",
    "tests/cli/test_cli.py",
    "tests/test_cpp_example.py",
    "tests/test_portable.py",
    "tests/fitting/test_heads.py",
    "tests/test_wheel.py",
    "tests/test_main_script.py",
    "tests/model/test_judging.py",
    "tests/model/test_loaded.py",
    "tests/cli/test_demo.py",
)
_ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {(_ROOT / name).resolve(strict=True): place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over all that the imports made, which stays."""
    gc.collect()
    gc.freeze()
