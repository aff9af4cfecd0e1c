# Everything a person or CI does with this tree. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test test-v2 chaos lint check docs lock clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## .venv and the Debian packages that the tests and the demo need (idempotent)
	@./setup.sh

demo: setup ## show the main job: find containers, measure, push
	@$(BIN)/python -m demo

test: setup ## every test, with a real Docker engine that is started privately and stopped
	@$(BIN)/python -m pytest

test-v2: setup ## the real tests on cgroup v2 and on v1 under systemd, with Docker, in a guest booted for them
	@$(BIN)/python -m tests.guest

MINUTES ?= 10
SEED ?= 1
chaos: setup ## faults of every kind for MINUTES=10 with SEED=1, then a table of what was produced, accepted and lost
	@$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES)

lint: setup ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: lint test ## lint and test

docs: setup ## regenerate docs/metrics.md from the catalogue
	@$(BIN)/falcon-agent metrics --markdown > docs/metrics.md

lock: setup ## renew the lock files from pyproject.toml
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate --extra dev -c requirements.lock \
	  pyproject.toml -o requirements-dev.lock

clean: ## remove .venv, the guest of test-v2 and caches
	rm -rf $(VENV) .guest .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
