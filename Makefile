# What a person types. Everything is installed into .venv; a second run starts at once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first Python that is new enough; `make PYTHON=/path/to/python ...` names another.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
	$(if $(shell $(p) -c 'import sys; print(*[1] * (sys.version_info >= (3, 11)))' 2>/dev/null),$(p))) no-python)
VENV := .venv
BIN := $(VENV)/bin
# The index that PyTorch comes from, where it is another than pip's own: PyTorch's documentation names the one that has
# wheels without CUDA, a tenth of the size.
TORCH_INDEX ?=
# How many tests run at once: one more than there are cores, for they wait for servers.
JOBS ?= $(shell expr $$(nproc) + 1)
FILES ?=

IMAGES ?= 500
SEED ?=

.PHONY: help demo test check long viewers console screenshots chaos soak fuzz bench docs servers clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 14

demo: $(VENV)/demo.stamp ## phantoms (and FILES="a.dcm b.dcm") through a PACS and the node, and back
	@$(BIN)/python deploy/demo/demo.py $(FILES)

test: $(VENV)/dev.stamp servers ## everything .ci/run checks: style, types, the whole test suite on real servers
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	CHEXNODE_TEST_REQUIRE_SERVERS=1 $(BIN)/pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder --durations=20

check: $(VENV)/dev.stamp ## what a commit needs: style, types, unit tests
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/unit

long: $(VENV)/dev.stamp servers ## the tests that a plain run leaves out, but for chaos, viewers and console
	CHEXNODE_TEST_REQUIRE_SERVERS=1 $(BIN)/pytest tests/unit tests/integration -m long

viewers: $(VENV)/dev.stamp servers ## results in OHIF, every case; PICTURES=folder keeps pictures of its screens
	@command -v chromium chromium-browser google-chrome >/dev/null || { echo 'make viewers needs Chromium (apt-get install chromium)' >&2; exit 1; }
	@CHEXNODE_WEB__VIEWER="$${XDG_CACHE_HOME:-$$HOME/.cache}/chexnode" $(BIN)/chexnode viewer fetch
	CHEXNODE_TEST_REQUIRE_SERVERS=1 $(BIN)/pytest tests/viewers -m '' $(if $(PICTURES),--pictures=$(PICTURES))

console: $(VENV)/dev.stamp servers ## the console in a browser, on a whole node
	CHEXNODE_TEST_REQUIRE_SERVERS=1 $(BIN)/pytest tests/console -m ''

screenshots: $(VENV)/dev.stamp servers ## pictures of every page of the console, into docs/images/console
	$(BIN)/python tests/console/screenshots.py

chaos: $(VENV)/dev.stamp servers ## no study lost: IMAGES=500 images while everything breaks; SEED=... breaks it again as then
	CHEXNODE_TEST_REQUIRE_SERVERS=1 CHEXNODE_CHAOS_IMAGES=$(IMAGES) CHEXNODE_CHAOS_SEED=$(SEED) \
		$(BIN)/pytest tests/acceptance/test_no_study_lost.py -m long

soak: $(VENV)/dev.stamp servers ## INSTANCES=20000 through one node: what grows, and whether it may; CLUSTER=1 on PostgreSQL and Redis
	@mkdir -p build
	$(BIN)/python tests/soak/soak.py --instances $(or $(INSTANCES),20000) $(if $(CLUSTER),--cluster) \
		--json build/soak.json --plot build/soak.png

fuzz: $(VENV)/dev.stamp ## mutated files, conversations and Store requests against every layer and a whole node; CASES=20000 SEED=...
	FUZZ_CASES=$(or $(CASES),20000) FUZZ_SEED=$(SEED) $(BIN)/pytest tests/fuzz -s

bench: $(VENV)/dev.stamp servers ## the benchmarks; minutes each
	@for script in tests/bench/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script; done

docs: $(VENV)/dev.stamp ## write the generated pages of docs/reference again
	$(BIN)/python docs/reference/generate.py

servers: ## install the Debian packages the tests start servers from, or say which are missing
	@tests/support/servers.sh

clean: ## remove what make made, except the virtual environment
	rm -rf build dist demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo 'ChexNode needs Python 3.11 or newer (apt-get install python3 python3-venv)' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments (apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# PyTorch goes first and alone, so that TORCH_INDEX serves it and nothing else.
$(VENV)/torch.stamp: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) 'torch>=2.8,<2.14'
	@touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/torch.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/demo.stamp
