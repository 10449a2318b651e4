# One command each. Everything goes into .venv; nothing else on the machine is touched.

PYTHON ?= python3
# Tests wait more than they work: more of them than processors.
JOBS ?= 4
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off
# What requirements/ locks, by its digests; then jetwatch itself, which is in no lock, by the locked build backend.
INSTALL_LOCKED = $(PIP) --require-hashes -r requirements/build.txt -r requirements/$(1).txt && \
  $(PIP) --no-deps --no-build-isolation --editable .
LOCKS := requirements/build.txt requirements/demo.txt requirements/dev.txt
.DEFAULT_GOAL := help

.PHONY: help audit lock dev demo test test-fast test-newest test-services test-system torture fuzz lint types \
  bench bench-content package release docs clean

help: ## list what there is
	@echo "make TARGET, with PYTHON=/path/to/python3 if python3 is older than 3.11"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

dev: .venv/dev-installed ## make .venv with everything that development needs

demo: .venv/demo-installed ## show the agent at work on real content, and clean up
	@$(BIN)/python contrib/demo/run.py

test: dev ## all tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-fast: dev ## the tests that take no time
	$(BIN)/python -m pytest tests/unit -m "not slow"

test-newest: $(BIN)/python ## all tests with the newest release of everything, in .newest, which is made anew
	rm -rf .newest
	$(BIN)/python -m venv .newest
	.newest/bin/python -m pip install --quiet --disable-pip-version-check --progress-bar off --editable '.[dev]'
	.newest/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-services: ## install the servers and programs that tests drive (root, Debian); says what is missing elsewhere
	@.ci/services

test-system: dev ## the deb on a booted machine (root, Debian, systemd-nspawn); after make package
	$(BIN)/python -m pytest tests/system

package: dev ## dist/: sdist, wheel, deb, rpm, jetp.pyz
	$(BIN)/python packaging/build.py

docs: dev ## build/site/index.html: the documentation as a site
	$(BIN)/python docs/site/build.py

release: dev ## dist/: the artefacts of a tagged commit, built twice, tried, signed with KEY=; UNTAGGED=1 rehearses
	$(BIN)/python packaging/release.py $(if $(UNTAGGED),--untagged) $(if $(KEY),--key $(KEY))

fuzz: dev ## hand hostile bytes to every parser; an hour, or TARGET=mountinfo SECONDS=60
	@$(PIP) 'atheris>=3' || echo "atheris could not be installed here: chance alone deals the inputs" >&2
	$(BIN)/python tests/fuzz $(TARGET) --seconds $(or $(SECONDS),3600)

torture: dev ## try to break every promise; an hour
	$(BIN)/python tests/torture

lint: dev ## style, format, which room may import which, and what bandit knows of weak code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive jetwatch

types: dev ## mypy, strict
	$(BIN)/mypy

bench: dev ## what the agent costs, beside other programs (15 minutes, root; peers go into .bench)
	@test -e .bench/jetwatch/bin/jetp || { $(PYTHON) -m venv .bench/jetwatch && \
	  .bench/jetwatch/bin/python -m pip install --quiet --disable-pip-version-check --editable . ; }
	@for each in idle checks start output watches history; do \
	  .bench/jetwatch/bin/python bench/$$each.py --json .bench/$$each.json || exit; done
	$(BIN)/python bench/draw.py .bench docs/explanation

audit: dev ## known weaknesses and licences of what is locked in requirements/
	$(BIN)/python packaging/audit.py

lock: dev ## write requirements/*.txt anew: versions and digests
	$(BIN)/python packaging/lock.py

bench-content: dev ## what fetching costs, beside other programs
	$(BIN)/python bench/content.py

clean: ## remove .venv and everything that was built
	rm -rf .venv .newest .bench build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "jetwatch needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

.venv/demo-installed: pyproject.toml $(LOCKS) | $(BIN)/python
	@echo "Installing jetwatch and what the demo needs into .venv (a minute the first time)"
	@$(call INSTALL_LOCKED,demo)
	@touch $@

# The development environment holds the demo's.
.venv/dev-installed: pyproject.toml $(LOCKS) | $(BIN)/python
	@echo "Installing jetwatch and its tools into .venv (a few minutes the first time)"
	@$(call INSTALL_LOCKED,dev)
	@touch .venv/demo-installed $@
