# make up      set up what serving needs, and serve          (make up ARGS="--port 9000")
# make test    set up everything, run the gates and every test
# make check   the gates alone: format, lint, types, floors
# make bench   measure the service side by side with its peers
# make bench-load   load `earshot up` with Artillery and draw what happens (ARGS="--test 1 | 2 | ramp", --short)
# make bench-chaos  kill and stop parts of a running service under load (ARGS="--only Yamnet")
# make bench-train  train on ESC-10, every architecture by folds
# make bench-data   measure the bulk jobs side by side with other ways to do the same work
PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.8
BIN := .venv/bin
UV := VIRTUAL_ENV=.venv $(BIN)/uv
ARGS ?=

.PHONY: setup up test check bench bench-chaos bench-data bench-load bench-train clean
.DELETE_ON_ERROR:

setup: .venv/.all

up: .venv/.core
	@exec $(BIN)/earshot up $(ARGS)

test: .venv/.all check
	@$(BIN)/python -m pytest $(ARGS)

check: .venv/.all
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_floors.py

bench: .venv/.all .venv-bench/.done
	@$(BIN)/python -m benchmarks.serving $(ARGS)

bench-data: .venv/.all
	@$(BIN)/python -m benchmarks.data $(ARGS)

bench-chaos: .venv/.all
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

bench-load: .venv/.all
	@$(BIN)/python -m benchmarks.load $(ARGS)

bench-train: .venv/.all
	@$(BIN)/python -m benchmarks.training $(ARGS)

clean:
	rm -rf .venv .venv-bench build *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Earshot needs Python 3.11: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# A stamp is newer than what it was made from; a second run installs nothing.
.venv/.core: pyproject.toml constraints.txt | .venv/bin/uv
	$(UV) pip install --quiet -c constraints.txt --editable .
	@touch $@

.venv/.all: pyproject.toml constraints.txt | .venv/bin/uv
	$(UV) pip install --quiet -c constraints.txt --editable '.[train,dev]'
	@touch .venv/.core $@

.venv-bench/.done: benchmarks/constraints.txt benchmarks/peers.in
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=.venv-bench .venv-bench/bin/uv pip install --quiet -c benchmarks/constraints.txt -r benchmarks/peers.in
	@touch $@
