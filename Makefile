# fcnet: everything from a clean clone with python3 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TESTS  := $(BIN)/python -m pytest -n 2 --dist loadfile  # a file's tests share what they have trained

.PHONY: demo test check bench soak format clean

demo: $(VENV)/.installed  ## install, then train on the real digits that come with it
	$(BIN)/fcnet train digits --out runs/demo --overwrite

test: $(VENV)/.installed  ## install, then run the tests
	$(TESTS)

check: $(VENV)/.installed  ## format, lint, types, import order, tests, coverage
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TESTS) --cov fcnet --cov-branch --cov-report term:skip-covered
	$(BIN)/python tests/branches.py

bench: $(VENV)/.installed  ## fcnet against its peers, about an hour: .venv/bin/pip install -e '.[bench]' first
	$(BIN)/python benchmarks/compare.py

FUZZ_SECONDS ?= 60
KILLS ?= 200
soak: $(VENV)/.installed  ## slow checks: KILLS trainings killed and resumed; threads; tables of millions of rows; readers fed by the fuzzer for FUZZ_SECONDS; array bounds
	$(BIN)/python tests/kills.py $(KILLS)
	$(BIN)/python tests/crowd.py 1000
	$(BIN)/python tests/large_tables.py
	$(BIN)/python fuzz/readers.py $(FUZZ_SECONDS)
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$$(mktemp -d) $(BIN)/python -m pytest tests/test_conformance.py -k "native or threads"

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
