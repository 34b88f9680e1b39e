# `make demo` and `make test` need nothing but Python 3.11+ and a package index; both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PHOTOS ?= demo_photos
OUTPUT ?= demo_output
# Two test processes, one thread each: more threads than cores cost more than they help.
WORKERS ?= 2

.PHONY: help setup demo test check lint format benchmark clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.ready: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

setup: $(VENV)/.ready  ## install everything into .venv

demo: $(VENV)/.ready  ## score six photographs and degraded copies, show the table
	$(BIN)/python -m training photographs $(PHOTOS)
	$(BIN)/python -m beam_pipeline --input $(PHOTOS) --output $(OUTPUT)
	$(BIN)/python -m beam_pipeline query $(OUTPUT)

test: $(VENV)/.ready  ## all tests but those that need a GPU
	$(BIN)/python -m pytest -m 'not gpu' -n $(WORKERS) --dist loadfile --durations 10

lint: $(VENV)/.ready  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint  ## what to run before a commit: lint and the fast tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

format: $(VENV)/.ready  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(VENV)/.ready  ## speed on this machine's CPU, as ratios of things measured in one run
	$(BIN)/python -m tests.benchmarks scorer --visual-tokens 144 --against-generate
	$(BIN)/python -m tests.benchmarks preprocessing
	$(BIN)/python -m tests.benchmarks pipeline --images 512

clean:  ## remove what make made
	rm -rf $(VENV) $(PHOTOS) $(OUTPUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
