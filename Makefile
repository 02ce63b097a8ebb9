# make            lists the targets
# make demo       from nothing to a tuned Laser
# make test       lint, types, import contract, tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
UNFINISHED := $(VENV)/.unfinished
AUDIT := .cache/audit-venv
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help venv demo ui cluster-local cluster-local-stop test lint types contract unit test-slow chaos audit format clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## create .venv from constraints.txt (once; an interrupted installation starts over)

# pip takes a half-written package for an installed one, so an unfinished environment is made anew.
$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; remedy: make PYTHON=<path of a newer one>" >&2; exit 2; }
	@if [ ! -x $(BIN)/python ] || [ -e $(UNFINISHED) ]; then $(PYTHON) -m venv --clear $(VENV); fi
	@touch $(UNFINISHED)
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@echo "compiling bytecode on all cores (some packages carry files for later Pythons, which are passed over)"
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	@rm $(UNFINISHED)
	@touch $@

demo: $(STAMP) ## prepare, pretrain, tune over K and L on a local Ray cluster, print the leaderboard
	@$(BIN)/python jobs/demo.py

ui: $(STAMP) ## open the MLflow UI on mlflow.db (stop it with Ctrl-C)
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1

cluster-local: $(STAMP) ## a Ray cluster of this machine whose worker nodes come and go (Ctrl-C stops it)
	@$(BIN)/python jobs/cluster.py

cluster-local-stop: $(STAMP) ## stop it from another terminal, also what a killed one left behind
	@$(BIN)/python jobs/cluster.py stop=true

test: $(STAMP) ## lint, types, import contract and tests, as CI runs them
	@$(MAKE) --no-print-directory lint types contract unit

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy
	$(BIN)/mypy

contract: $(STAMP) ## import-linter: rooms import one way, frameworks are fenced
	$(BIN)/lint-imports --no-logo

unit: $(STAMP) ## pytest, without the slow tests
	$(BIN)/python -m pytest -q --durations=15

test-slow: $(STAMP) ## the tests that take minutes
	$(BIN)/python -m pytest -q -m slow

chaos: $(STAMP) ## kill workers, jobs, trials and nodes, fill the disk: what each costs, and that nothing is lost
	$(BIN)/python -m pytest -q -m ray tests/jobs/test_chaos.py tests/tracking/test_server_away.py

# pip-audit is no part of the pinned environment: it has one of its own, made anew each time so that it is the latest.
# --strict: a package that the database does not know fails the audit, instead of passing unseen.
audit: ## known vulnerabilities in the pinned packages (fetches pip-audit and asks a database: needs a network)
	@rm -rf $(AUDIT) && $(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --disable-pip-version-check -q --retries 1 pip-audit || \
		{ rm -rf $(AUDIT); echo "error: pip-audit could not be fetched; remedy: run it where a package index answers" >&2; exit 2; }
	@$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off \
		|| { echo "error: the audit found something, or not every package could be looked up (see above)" >&2; false; }; \
		status=$$?; rm -rf $(AUDIT); exit $$status

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and runs, keep .venv and mlflow.db
	rm -rf .cache runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
