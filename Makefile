# Everything a person or CI does with this tree. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test test-packages test-v2 chaos bench bench-soak lint check docs image man picture rpm deb lock clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## .venv and the Debian packages that the tests and the demo need (idempotent)
	@./setup.sh

demo: setup ## show the main job: find containers, measure, push
	@$(BIN)/python -m demo

test: setup ## the tests, with a real Docker engine that is started privately and stopped
	@$(BIN)/python -m pytest --ignore=tests/packaging

test-packages: setup ## RPM and deb in a booted systemd: installed, run, upgraded, erased
	@$(BIN)/python -m pytest tests/packaging

test-v2: setup ## the real tests on cgroup v2 and on v1 under systemd, with Docker, in a guest booted for them
	@$(BIN)/python -m tests.guest

MINUTES ?= 10
SEED ?= 1
chaos: setup ## faults of every kind for MINUTES=10 with SEED=1, then a table of what was produced, accepted and lost
	@$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES)

CONTAINERS ?= 300
ROUNDS ?= 15
bench: setup ## what a cycle costs against a C program that reads the same files: CONTAINERS=300 ROUNDS=15
	@command -v cc >/dev/null || { echo "bench: installing gcc and libc6-dev"; apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null; }
	@$(BIN)/python -m bench --containers $(CONTAINERS) --rounds $(ROUNDS)

CYCLES ?= 1000
STEP ?= 1
REPLACE ?= 0
bench-soak: setup ## memory of the daemon over CYCLES=1000, STEP=1 seconds apart, with CONTAINERS=300, REPLACE=0 a minute
	@$(BIN)/python -m bench.soak --cycles $(CYCLES) --step $(STEP) --containers $(CONTAINERS) --replace $(REPLACE)

lint: setup ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: lint test ## lint and test

docs: setup ## regenerate docs/metrics.md and the reference in docs/configuration.md from the code
	@$(BIN)/falcon-agent metrics --markdown > docs/metrics.md
	@$(BIN)/python -m docs.generate.configuration

image: ## the container image falcon-agent, with docker (docs/kubernetes.md)
	@docker build -t falcon-agent:$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' falcon_agent/__init__.py) .

man: setup ## the manual page and the shells' completions, in build/
	@mkdir -p build/man build/completion
	@$(BIN)/python -m falcon_agent.cli.manual > build/man/falcon-agent.1
	@$(BIN)/falcon-agent completion bash > build/completion/falcon-agent
	@$(BIN)/falcon-agent completion zsh > build/completion/_falcon-agent
	@$(BIN)/falcon-agent completion fish > build/completion/falcon-agent.fish

picture: setup ## draw docs/collect.svg anew, from a real container
	@$(BIN)/python -m docs.generate.picture

rpm: setup ## dist/*.rpm for EL8, EL9, Fedora and openEuler with Python 3.11
	@rpm/build

deb: setup ## dist/*.deb for Debian 12, with the same files
	@deb/build

lock: setup ## renew the lock files from pyproject.toml
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate --extra dev -c requirements.lock \
	  pyproject.toml -o requirements-dev.lock

clean: ## remove .venv, what was built, the guest of test-v2 and caches
	rm -rf $(VENV) .guest build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
