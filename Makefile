# The development environment and the checks. `make test` and `make demo` need nothing but Python,
# a C++ compiler and access to a package index; everything they install goes to $(VENV).

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One place names the tested versions.
pinned = $(shell grep '^$(1)==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help test test-all lint format demo bench micro check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

test: lint  ## make the environment, check style and types, run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(PYTEST_ARGS)

test-all: lint  ## the same with every model of the zoo, which takes about an hour
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.stamp-test  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.stamp-test  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(VENV)/.stamp-demo  ## embed sentences with a real model on two slots
	$(BIN)/python examples/sentence_similarity.py

bench: $(VENV)/.stamp-test $(VENV)/.stamp-demo  ## measure speed beside the baselines; BENCH_ARGS=--quick for a glance
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

micro: $(VENV)/.stamp-test  ## measure single parts of a call and of planning
	$(BIN)/python -m pytest benchmarks/micro --benchmark-enable --benchmark-group-by=func -p no:xdist $(PYTEST_ARGS)

check: test demo  ## everything, before a change is sent

clean:  ## remove what the build and the tools leave; the environment stays
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch comes first and alone, by exact version: resolved from the open range in pyproject.toml it
# could be a build with gigabytes of CUDA packages.
$(VENV)/.stamp-torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt $(call pinned,torch)
	@touch $@

# diffusers and timm come without their dependencies: torchvision, for one, is not needed here and
# has to match torch exactly.
$(VENV)/.stamp-test: $(VENV)/.stamp-torch pyproject.toml
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	$(PIP) install --quiet --no-deps $(call pinned,diffusers) $(call pinned,timm)
	@touch $@

$(VENV)/.stamp-demo: $(VENV)/.stamp-torch pyproject.toml
	$(PIP) install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@
