# make            lists the targets
# make demo       runs everything, from no data to a tuned Laser
# make test       checks lint, types and the import contract, and runs the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
DOCS := $(VENV)/.docs
UNFINISHED := $(VENV)/.unfinished
AUDIT := .cache/audit-venv
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help venv demo ui cluster-local cluster-local-stop docs test lint types contract unit test-slow chaos audit format clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## create .venv from constraints.txt (once; starts over after an interrupted installation)

# pip takes a half-written package for an installed one, so an unfinished environment is made anew.
$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; remedy: make PYTHON=<path of a newer one>" >&2; exit 2; }
	@if [ ! -x $(BIN)/python ] || [ -e $(UNFINISHED) ]; then $(PYTHON) -m venv --clear $(VENV); fi
	@touch $(UNFINISHED)
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@echo "compiling bytecode on all cores (skips files that some packages carry for later Pythons)"
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
	@rm $(UNFINISHED)
	@touch $@

demo: $(STAMP) ## prepare, pretrain, tune over K and L on a local Ray cluster, print the leaderboard
	@$(BIN)/python jobs/demo.py

ui: $(STAMP) ## show the runs in a browser: print the address and serve it (stop it with Ctrl-C)
	@$(BIN)/python jobs/ui.py

cluster-local: $(STAMP) ## run a Ray cluster on this machine that adds and removes worker nodes (Ctrl-C stops it)
	@$(BIN)/python jobs/cluster.py

cluster-local-stop: $(STAMP) ## stop the local cluster from another terminal, and clean up after a killed one
	@$(BIN)/python jobs/cluster.py stop=true

# The pages take what --help and docstrings say, so the generator lives beside the package. Users do not need it.
$(DOCS): $(STAMP)
	@$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS) ## make the documentation as a site, build/docs/index.html; a warning is an error
	@$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs
	@echo build/docs/index.html

test: $(STAMP) ## check lint, types and import contract, and run the tests, as CI does
	@$(MAKE) --no-print-directory lint types contract unit

lint: $(STAMP) ## check rules and format with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## check types with mypy
	$(BIN)/mypy

contract: $(STAMP) ## check with import-linter that rooms import one way and that frameworks are fenced
	$(BIN)/lint-imports --no-logo

unit: $(STAMP) ## run all tests except the slow ones
	$(BIN)/python -m pytest -q --durations=15 --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test-slow: $(STAMP) ## run the tests that take minutes
	$(BIN)/python -m pytest -q -m slow

chaos: $(STAMP) ## kill workers, jobs, trials and nodes, fill the disk; check that nothing is lost and print what it cost
	$(BIN)/python -m pytest -q -m ray tests/jobs/test_chaos.py tests/tracking/test_server_away.py

# pip-audit has its own environment, apart from the pinned one. It is made anew each time, to get the latest version.
# With --strict, a package that the database does not know fails the audit, instead of passing unseen.
audit: ## look for known vulnerabilities in the pinned packages (needs a network for pip-audit and its database)
	@rm -rf $(AUDIT) && $(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --disable-pip-version-check -q --retries 1 pip-audit || \
		{ rm -rf $(AUDIT); echo "error: pip-audit could not be fetched; remedy: run it on a machine that reaches a package index" >&2; exit 2; }
	@$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off \
		|| { echo "error: the audit found vulnerabilities, or could not look up every package (see above)" >&2; false; }; \
		status=$$?; rm -rf $(AUDIT); exit $$status

format: $(STAMP) ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and runs, keep .venv and mlflow.db
	rm -rf .cache runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
