# Two commands for a newcomer: `make demo` and `make test`. Each makes its own environment in .venv.
#
# Settings: PYTHON=python3.12  DATA=path/to/photos  OUTPUT=folder  JOBS=2
# pip's own variables hold, e.g. PIP_EXTRA_INDEX_URL for torch's CPU-only builds.

PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= demo
JOBS ?= 2
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test coverage test-slow test-lowest check format bench clean

help: ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo ## the whole road on real pictures; DATA=path/to/photos for your own
	$(BIN)/effvit demo $(if $(DATA),"$(DATA)") --output "$(OUTPUT)"

# In two runs: with all runtimes of exported files and everything else in one process, a worker was seen to end.
QUICK := -m pytest -n $(JOBS) --dist worksteal

test: check ## format, lint, types and all quick tests
	$(BIN)/python $(QUICK) --ignore=tests/deploy
	$(BIN)/python $(QUICK) tests/deploy

# Apart from `test`: watching every branch makes the tests take 1.7 times as long on Python 3.11.
coverage: $(VENV)/.dev ## the quick tests again, slower, with the share of each file's branches that they reach
	$(BIN)/python $(QUICK) --cov --cov-report= --ignore=tests/deploy
	$(BIN)/python $(QUICK) --cov --cov-append --cov-report=term:skip-covered tests/deploy

test-slow: $(VENV)/.dev ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-lowest: ## the quick tests with the oldest versions that pyproject.toml allows, in .venv-lowest
	$(MAKE) VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt .venv-lowest/.dev
	.venv-lowest/bin/python $(QUICK) --ignore=tests/deploy
	.venv-lowest/bin/python $(QUICK) tests/deploy

check: $(VENV)/.dev ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.demo ## the benchmark of the networks against timm's, into results/ (20 minutes)
	$(BIN)/python benchmarks/eager_vs_timm.py

clean: ## remove the environments and what tools left
	rm -rf .venv .venv-lowest .pytest_cache .mypy_cache .ruff_cache .coverage build src/*.egg-info

CONSTRAINTS ?= constraints.txt

$(VENV)/.demo: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "effvit needs Python 3.11 or newer, \
	$(PYTHON) is %d.%d; try: make PYTHON=python3.11 ..." % v[:2])'
	@echo "installing into $(VENV), some minutes the first time ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e ".[dev]"
	@touch $@
