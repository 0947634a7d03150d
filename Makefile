BIN := .venv/bin
CONSTRAINTS ?= constraints.txt
RECIPE ?= recipes/smoke.yaml
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install run test test-all check format docs clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.venv/.installed: pyproject.toml $(wildcard $(CONSTRAINTS))
	python3 -m venv .venv
	$(BIN)/pip install --quiet --no-compile $(addprefix --constraint ,$(wildcard $(CONSTRAINTS))) --editable '.[dev]'
	@touch $@

install: .venv/.installed  ## virtual environment with everything needed
run: .venv/.installed  ## run a recipe: make run RECIPE=recipes/smoke.yaml ARGS='key=value'
	$(BIN)/fewshot run $(RECIPE) $(ARGS)
test: .venv/.installed  ## the tests that CI runs (under 8 minutes on 2 cores)
	$(BIN)/pytest -m "not slow and not gpu" $(ARGS)
test-all: .venv/.installed  ## also the slow ones
	$(BIN)/pytest -m "not gpu" $(ARGS)
check: .venv/.installed  ## lint and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
format: .venv/.installed  ## format and sort imports
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .
docs: .venv/.installed  ## build the documentation site
	$(BIN)/pip install --quiet --no-compile $(addprefix --constraint ,$(wildcard $(CONSTRAINTS))) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
clean:  ## remove everything made here, except runs
	rm -rf .venv site build *.egg-info .pytest_cache .mypy_cache .ruff_cache
