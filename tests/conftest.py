import os
import tempfile

from hypothesis import settings

settings.register_profile("padim", deadline=None, derandomize=True)
settings.load_profile("padim")

# Trunks are written as graphs into the user's cache: not those of the tests, whose processes share
# one.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="padim-cache-")
    os.environ["XDG_CACHE_HOME"] = _cache.name
