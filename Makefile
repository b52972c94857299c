PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
OLDEST ?= .venv-oldest
GPU ?= .venv-gpu
# Three processes keep two cores busy, as some tests wait. A file stays in one, for what its tests share, and
# files come in the order that tests/conftest.py gives them.
SIDE_BY_SIDE := -n 3 --dist loadfile --no-loadscope-reorder

# Of `make fuzz`: how long at most, how many of each, and what they are drawn by.
SECONDS ?= 1800
SEED ?= 0
CASES ?= 47500
KILLS ?= 1000
RACES ?= 200
# Of `make kills`.
STATION_KILLS ?= 300

.PHONY: demo serve test check-types check-types-windows check-types-mac check-style fuzz kills oldest gpu gpu-device strangers docs format clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/padim demo

# A station with the demo's model; its photographs come in by themselves, two seconds apart.
serve: $(VENV)/installed
	test -f demo/results/models/solar_mono.safetensors || $(BIN)/padim demo
	$(BIN)/python docs/scripts/serve_demo.py

test: $(VENV)/installed strangers
	$(MAKE) --jobs 2 --output-sync check-types check-types-windows check-types-mac check-style
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

check-types:
	$(BIN)/mypy

check-types-windows:
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 src main.py

check-types-mac:
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin src main.py

check-style:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

# Damaged and hostile files, kills and races: docs/reference/promises.md says what must hold.
fuzz: $(VENV)/installed
	cd tests && $(abspath $(BIN))/python -m hostile --seconds $(SECONDS) --seed $(SEED) \
		--cases $(CASES) --kills $(KILLS) --races $(RACES) $(FUZZ)

# A station that is killed at random moments under load: nothing is lost, nothing is done twice.
kills: $(VENV)/installed
	cd tests && $(abspath $(BIN))/python -m serving.kills --kills $(STATION_KILLS) --seed $(SEED)

# The oldest release of each range; what they warn of has changed since.
oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest $(SIDE_BY_SIDE) -m "not slow" -W default --ignore tests/docs

# What a CUDA device computes, against the CPU, and how fast. Warnings of builds that the other tests
# do not run with are shown, and end nothing.
gpu: gpu-device $(GPU)/installed
	$(GPU)/bin/python -m pytest -m gpu -W default --ignore tests/docs
	$(GPU)/bin/python benchmarks/gpu.py

# Asked of the driver itself, before gigabytes are installed.
gpu-device:
	@$(PYTHON) -c 'import ctypes; raise SystemExit(ctypes.CDLL("libcuda.so.1").cuInit(0))' \
		2>/dev/null || { echo "make gpu: this machine has no CUDA device." >&2; exit 1; }

# What tests talk to: a browser, a broker, a database, who reads metrics. Elsewhere than in CI they
# are skipped without it. A server that Debian starts is not needed: each test starts its own.
strangers:
	@if [ "$$CI" = true ] && ! { command -v chromedriver && command -v mosquitto && \
		command -v pg_ctlcluster && command -v promtool; } >/dev/null; then \
		sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); export DEBIAN_FRONTEND=noninteractive; \
		$$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends \
			chromium chromium-driver mosquitto mosquitto-clients postgresql prometheus; \
	fi

# Into build/site, without a network; the variable silences what Material says of its successor.
docs: $(VENV)/installed
	$(BIN)/python docs/scripts/write_pages.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Open build/site/index.html, or, to search as well: $(BIN)/python -m http.server -d build/site"

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/installed: pyproject.toml constraints.txt
	$(call install,$(VENV),constraints.txt,--group docs)

$(OLDEST)/installed: pyproject.toml constraints-oldest.txt
	$(call install,$(OLDEST),constraints-oldest.txt)

# Two builds of ONNX Runtime are the same files: the one for a GPU takes the other's place.
$(GPU)/installed: pyproject.toml constraints.txt
	$(call install,$(GPU),constraints.txt,--group bench)
	$(GPU)/bin/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
	$(GPU)/bin/python -m pip install --quiet --constraint constraints.txt \
		"onnxruntime-gpu[cuda,cudnn]"
	$(GPU)/bin/python -m pip install --quiet "tensorrt-cu13-libs<11" || \
		echo "TensorRT cannot be installed: its tests are skipped." >&2

define install
$(PYTHON) -m venv $(1)
$(1)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
$(1)/bin/python -m pip install --quiet --constraint $(2) --editable ".[all]" --group test $(3)
touch $@
endef

clean:
	rm -rf $(VENV) $(OLDEST) $(GPU) build dist demo
