# make help lists the targets. Needed on the machine: Python 3.11 or later, git, make.
#
# PYTHON=python3.12   the interpreter that .venv is made from
# PIP_ARGS="..."      more arguments for pip install, such as an index of your own
# PYTEST_ARGS="..."   more arguments for pytest, such as "-m 'not slow'"
# JOBS=1              papers that `make repro` works on side by side; 1 where there is a GPU, else all

PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=
# nproc says no more than OMP_NUM_THREADS, which the tests and some users set to 1.
CORES := $(shell env -u OMP_NUM_THREADS nproc)

# The longest first: structured waits for funmatch, see below.
PAPERS := funmatch imitation affinity structured
# All at once also where cores are fewer: with one paper a core the last would run beside an idle one.
JOBS ?= $(if $(shell command -v nvidia-smi),1,$(words $(PAPERS)))
# Small networks gain nothing from a second thread: a core is better spent on another paper.
THREADS = $(if $(filter 1,$(JOBS)),$(CORES),1)

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export JUPYTER_PLATFORM_DIRS := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
unexport PYTHONPATH PYTHONHOME

.PHONY: help setup data repro $(PAPERS:%=repro-%) unlock evidence test lab lint clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with the locked packages (once; 6 GB on Linux)
	@:

data: $(READY)  ## restore data/: pull it where a DVC remote has it, else render it; check its hash
	@python -m kdlib.simulate restore

# The inputs first, one after the other: they read data/, which DVC then refuses to another process. A paper that fails
# does not stop the others.
repro: data unlock  ## run the main job: frames, teacher, students, tables and figures
	@dvc repro code $(PAPERS:%=%-inputs)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$(THREADS)} $(MAKE) -k -j $(JOBS) $(PAPERS:%=repro-%)
	@dvc repro

$(PAPERS:%=repro-%):
	@dvc --wait-for-lock repro --glob '$(@:repro-%=%)-*'

# It starts from weights of function matching. DVC looks at all stages before those that it is asked for, and refuses
# while another process is at work on one of them.
repro-structured: repro-funmatch

evidence: data unlock  ## run the further seeds, pool sizes and schedules behind the committed figures (hours)
	@dvc repro evidence/dvc.yaml

# A kill -9 that hits DVC itself can leave its lock file empty, which DVC then can't read.
unlock:
	@test -s .dvc/tmp/rwlock || rm -f .dvc/tmp/rwlock

test: $(READY)  ## run all tests
	@python -m pytest $(PYTEST_ARGS)

lab: $(READY)  ## open the notebooks in JupyterLab
	@jupyter lab --ServerApp.root_dir='$(CURDIR)' --LabApp.default_url=/lab/tree/notebooks

lint: $(READY)  ## check style; needs ruff
	@ruff check . && ruff format --check .

clean:  ## remove caches and what was rendered for tests; keeps data/, runs/ and DVC's cache
	@rm -rf .cache .pytest_cache .ruff_cache
	@find kdlib tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

distclean: clean  ## as clean, and .venv
	@rm -rf $(VENV) *.egg-info

# pip lists every file that it looks at; what it says goes to a log, and a line appears now and then.
PIP := python -m pip install --progress-bar off
PROGRESS = awk -v all=$$(grep -c == requirements.lock) \
  '/^(Collecting|Requirement already)/ {if (++n % 25 == 0) {print "setup: " n " of " all; fflush()}} \
   /^Installing collected/ {print "setup: unpacking"; fflush()}'

$(READY): requirements.lock pyproject.toml
	@command -v git > /dev/null || { echo "setup: git is not installed" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "setup: $(PYTHON) is absent or older than 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setup: $$($(PYTHON) -V) in $(VENV); some minutes, 6 GB on Linux"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(PIP_ARGS) -r requirements.lock 2> $(VENV)/pip.log | tee $(VENV)/pip.out | $(PROGRESS) || { \
	  grep ERROR $(VENV)/pip.log | cut -c 1-200 >&2; echo "setup: pip failed; its words are in $(VENV)/pip.log" >&2; exit 1; }
	@$(PIP) --no-build-isolation --no-deps -e . > $(VENV)/pip.out 2>&1 || { cat $(VENV)/pip.out >&2; exit 1; }
	@touch $@
	@echo "setup: done"
