# The two commands are `make run` and `make test`; both need only make and Python 3.11 or later.

# The first that runs and is new enough: a version manager may leave names on the path that do neither.
PYTHON ?= $(or $(shell for name in python3.13 python3.12 python3.11 python3 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done),python3)
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test test-long slowest fuzz fuzz-api load-long kill-long audit bench lint format pin release clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## Start everything on this machine
	@exec $(BIN)/python -m receiver serve

# Rewriting the asserts of all tests takes 15 seconds of processor time, so pytest must be able to keep what it made.
unexport PYTHONDONTWRITEBYTECODE

# On a clean checkout, two processes rewrite half of the tests each. Otherwise each process of pytest would rewrite all.
COLLECT = $(BIN)/python -m pytest --collect-only -q -m "not long"
REWRITTEN = test -d tests/web/__pycache__ || { \
	$(COLLECT) tests/[a-d]*/ tests/web >/dev/null 2>&1 & $(COLLECT) tests/[e-t]*/ tests/test_*.py >/dev/null 2>&1 & wait; }

# One process more than cores: many tests wait. A process that has no test left takes some from the others. Not
# loadfile or loadscope: they tell tests by their ids, and all tests that schemathesis generates have the same id.
PYTEST = $(BIN)/python -m pytest -n $${PYTEST_WORKERS:-$$(($$(getconf _NPROCESSORS_ONLN) + 1))} --dist worksteal

test: $(VENV)/.development ## Run the tests, in six minutes on two cores
	@tests/tools
	@$(REWRITTEN)
	@exec $(PYTEST) -m "not long" $(PYTEST_ARGS)

# The slowest modules are first (conftest.py).
test-long: $(VENV)/.development $(VENV)/.clients ## Run the long tests: kills, outages, load, upgrades, browsers and documents
	@tests/tools
	@exec $(PYTEST) -m long $(PYTEST_ARGS)

slowest: ## Run the tests, and list the slowest twenty
	@$(MAKE) test PYTEST_ARGS="--durations=20 $(PYTEST_ARGS)"

fuzz: $(VENV)/.fuzz ## Fuzz the parsers with Hypothesis and atheris, FUZZ_SECONDS (300) each
	@export FUZZ_SECONDS=$${FUZZ_SECONDS:-300}; status=0; \
	$(BIN)/python -m pytest -q -s tests/fuzz tests/phone_numbers/test_destination.py -k "many_generated or exchange" || status=1; \
	$(BIN)/python -m tests.fuzz.atheris_run all --seconds $$FUZZ_SECONDS || status=1; \
	exit $$status

fuzz-api: $(VENV)/.development ## Send 2,000 generated requests (FUZZ_CASES) to each operation of the API
	@FUZZ_CASES=$${FUZZ_CASES:-2000} exec $(BIN)/python -m pytest -q -s tests/web/test_contract_fuzz.py

load-long: $(VENV)/.development ## Load the service for ten minutes (LOAD_SECONDS) and check that nothing grows
	@LOAD_SECONDS=$${LOAD_SECONDS:-600} exec $(BIN)/python -m pytest -q -s tests/acceptance/test_load.py

kill-long: $(VENV)/.development ## Kill 1,000 processes (KILLS, KILL_SEED) and check that nothing is lost
	@KILLS=$${KILLS:-1000} exec $(BIN)/python -m pytest -q -s tests/acceptance/killing/test_kill_anywhere.py

audit: $(VENV)/.audit ## Search for known vulnerabilities with bandit and pip-audit (needs a network)
	@exec $(BIN)/python -m tests.audit $(VENV)/audit/bin

bench: $(VENV)/.bench ## Run all benchmarks: over an hour, on an idle machine
	@tests/tools
	@exec $(BIN)/python -m benchmarks $(BENCH_ARGS)

lint: $(VENV)/.development ## Check style, types and the import rules of the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.development ## Format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

pin: ## Update the pinned requirements from pyproject.toml (needs uv)
	uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make pin" pyproject.toml -o requirements.txt
	uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make pin" --extra dev pyproject.toml -o requirements-dev.txt
	uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command "make pin" --extra bench -c requirements-dev.txt pyproject.toml -o requirements-bench.txt
	printf 'bandit\npip-audit\n' | uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --custom-compile-command "make pin" - -o requirements-audit.txt
	printf '%s\n' datamodel-code-generator mypy openapi-generator-cli openapi-python-client pydantic python-dateutil \
		types-python-dateutil urllib3 | uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --custom-compile-command "make pin" - -o requirements-clients.txt

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' receiver/__init__.py)
ARCHIVE = dist/result-url-receiver-$(VERSION).tar.gz

release: $(VENV)/.development ## Check everything, and build a package in dist/
	@git diff --quiet HEAD || { echo "There is something that is not committed." >&2; exit 1; }
	@grep -q '^## $(VERSION) ' CHANGELOG.md || { echo "CHANGELOG.md has no heading for $(VERSION)." >&2; exit 1; }
	.ci/run
	@mkdir -p dist
	git archive --format=tar.gz --prefix=result-url-receiver-$(VERSION)/ -o $(ARCHIVE) HEAD
	@rm -rf dist/seen && mkdir dist/seen && tar -xzf $(ARCHIVE) -C dist/seen --strip-components=1
	@cd dist/seen && test "$$(../../$(BIN)/python -m receiver --version)" = "$(VERSION)"
	@rm -rf dist/seen
	$(BIN)/python -m tests.sbom > $(ARCHIVE:.tar.gz=.cdx.json)
	cd dist && sha256sum $(notdir $(ARCHIVE) $(ARCHIVE:.tar.gz=.cdx.json)) > SHA256SUMS
	@echo "$(ARCHIVE) is made and starts. Publish it with its bill of materials and SHA256SUMS."

clean: ## Remove everything that these commands created, except your data in var/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or later is needed; set PYTHON=/path/to/python3 to name one." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "Python's venv module is needed (Debian: apt-get install python3-venv)." >&2; exit 1; }

# Each is touched when what it names is installed, and made again when the pins change.
$(VENV)/.runtime: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.development: requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.development
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.txt
	@touch $@

$(VENV)/.fuzz: requirements-fuzz.txt $(VENV)/.development
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-fuzz.txt
	@touch $@

# Generators of clients, and linters of the API's description: tests/clients. Without them those tests are skipped.
$(VENV)/.clients: requirements-clients.txt tests/clients/package-lock.json | $(BIN)/python
	@{ $(BIN)/python -m venv $(VENV)/clients && \
	$(VENV)/clients/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-clients.txt && \
	cp tests/clients/package.json tests/clients/package-lock.json $(VENV)/clients && \
	npm ci --prefix $(VENV)/clients --ignore-scripts --no-audit --no-fund --silent && touch $@; } || \
		echo "Generators of clients could not all be installed. The tests that need them are skipped." >&2

# A separate virtualenv, so that its requirements do not affect our versions.
$(VENV)/.audit: requirements-audit.txt $(VENV)/.development
	@$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-audit.txt
	@touch $@
