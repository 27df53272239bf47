# SPDX-License-Identifier: Apache-2.0
.DEFAULT_GOAL := help
export ROS ?=
PYTHON ?= $(if $(ROS_DISTRO),python3,$(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3))
BIN := .venv/bin
CODE := src test scripts launch setup.py
export MPLBACKEND ?= Agg
export PYTHONUTF8 ?= 1
# With it, each process of a graph would compile all of its modules again: 20 s at each start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help sim test setup setup-test setup-docs docs doctor lint format lock clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS="..." passes arguments on:  make sim ARGS="patient:=phantom:7 headless:=true"'
	@echo '                                   make test ARGS="-k kinematics"'

setup: ## Set up everything that is missing (ROS=kilted: with the wheels of another ROS 2 than Jazzy)
	@$(PYTHON) scripts/bootstrap.py

sim: setup ## Start the whole graph on the embedded simulator and the real chest CT
	@exec $(BIN)/carm sim $(ARGS)

setup-test:
	@$(PYTHON) scripts/bootstrap.py test

# The processes of parallel tests take all cores; more threads in each of them only wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1
PARALLEL := -n logical --maxprocesses 4 --dist loadfile
INTEGRATION = $(shell grep -rl --include='*.py' mark.integration test)

test: setup-test lint ## Run every check and every test: the fast ones first, those that measure times last and alone
ifeq ($(strip $(ARGS)),)
	@$(ONE_THREAD) $(BIN)/python -m pytest -m "not integration" $(PARALLEL)
	@$(ONE_THREAD) $(BIN)/python -m pytest -m "integration and not serial" $(PARALLEL) $(INTEGRATION)
	@$(BIN)/python -m pytest -m serial $(INTEGRATION)
else
	@$(BIN)/python -m pytest $(ARGS)
endif

setup-docs:
	@$(PYTHON) scripts/bootstrap.py docs

docs: setup-docs ## Build the documentation as a site in .build/site (ARGS=serve shows it while you write)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build)

lint: setup-test ## Style, docstrings and types only
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy

format: setup-test ## Format the code and apply the safe fixes of the linter
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

doctor: ## Check this machine and say how to fix each failure
	@if [ -x $(BIN)/carm ]; then $(BIN)/carm doctor $(ARGS); else PYTHONPATH=src $(PYTHON) -m carm_bringup.cli.doctor; fi

lock: setup-test setup-docs ## Write the lock files from pyproject.toml and what is installed in .venv
	@$(BIN)/python scripts/lock.py

clean: ## Remove built interfaces and caches
	rm -rf .build .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src test scripts launch -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment too
	rm -rf .venv
