# Every target makes the environment it needs; see CONTRIBUTING.md, "What make does".
#   PYTHON=python3.12            the Python to build .venv from (default: python3, else the newest of 3.11 to 3.13)
#   SAGE_LLM_OPS_BUILD=sim       cpu, cuda or sim (default: what the machine can run)

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/sh

BIN := .venv/bin
MODEL ?=
ARGS ?=
SUITE ?=
PRESET ?= ci
OUT ?= bench-out/$(SUITE)-$(PRESET).json
CHAOS_MINUTES ?= 3
CHAOS_SEED ?=
CHAOS_WORKERS ?=

.PHONY: help preflight bootstrap lmdeploy demo check test bench chaos lock format clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

preflight: ## can this machine take the install? Every check, with what mends it
	@$(or $(PYTHON),python3) tools/preflight.py

bootstrap: ## make .venv what the lock says (every target below does it first)
	@$(or $(PYTHON),python3) tools/bootstrap.py

lmdeploy: bootstrap ## make .venv-lmdeploy, in which LMDeploy's workers and tests run (CPU build only)
	@$(or $(PYTHON),python3) tools/lmdeploy_env.py

demo: bootstrap ## serve requests on this machine, and show why each went where it went (MODEL=name, ARGS="...")
	@$(BIN)/sage-llm-ops demo $(if $(MODEL),--model $(MODEL)) $(ARGS)

check: bootstrap ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

# Without ARGS also the tests that look inside LMDeploy, in its environment.
test: check lmdeploy ## check, then pytest (ARGS="tests/types -k name")
	@$(BIN)/python -m pytest $(ARGS)
	@test -n "$(ARGS)" -o ! -e .venv-lmdeploy || .venv-lmdeploy/bin/python -m pytest tests/engines/lmdeploy

bench: bootstrap $(if $(filter engines,$(SUITE)),lmdeploy) ## one benchmark suite: SUITE=name [PRESET=ci|full] [OUT=file]
	@test -n "$(SUITE)" || { echo "name a suite: make bench SUITE=name; suites:"; ls benchmarks/suites; exit 2; }
	@mkdir -p $(dir $(OUT))
	@$(BIN)/python benchmarks/runner.py --suite $(SUITE) --preset $(PRESET) --out $(OUT) $(ARGS)

chaos: bootstrap ## break everything under load and check what was promised (CHAOS_MINUTES=15 CHAOS_SEED=n CHAOS_WORKERS=vllm,lmdeploy)
	@$(BIN)/python -m sage_llm_ops.testing.chaos --minutes $(CHAOS_MINUTES) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED)) $(if $(CHAOS_WORKERS),--workers $(CHAOS_WORKERS))

format: bootstrap ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: bootstrap ## compile locks/*.txt again (UPGRADE=1: newest versions within the bounds)
	@$(BIN)/python tools/lock.py $(if $(UPGRADE),--upgrade)

# The stamp goes first: an interrupted clean must not leave half an environment that looks whole.
clean: ## remove .venv, .venv-lmdeploy, .demo and caches, nothing else
	@rm -f .venv/sage-llm-ops.json .venv-lmdeploy/sage-llm-ops.json
	@rm -rf .venv .venv-lmdeploy .venv-bootstrap.log .demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
