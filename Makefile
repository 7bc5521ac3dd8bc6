# pushd: "make run" and "make test" set up all that they need; "make" alone lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first Python here that is 3.11 or newer; PYTHON=... chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

BIN := .venv/bin
# twistd finds the plugin of an editable install only in this mode.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input \
	--config-settings editable_mode=compat
APT := $(if $(filter 0,$(shell id -u)),,sudo )env DEBIAN_FRONTEND=noninteractive apt-get -q

# What one runs with "make run ARGS=...", say ARGS='--listen tcp:9000', and with "make bench".
ARGS ?=
BENCH ?=

##@ The two commands

.PHONY: run
run: .venv/.run  ## Start the daemon and say the URL to open; ARGS='--listen tcp:9000'
	exec $(BIN)/twistd -n --pidfile= pushd $(ARGS)

.PHONY: test
test: check live browser  ## Run everything that must pass, as CI does
	@echo 'make test: all is well'

##@ Its parts

.PHONY: check
check: lint types unit trial django  ## All that needs neither a socket nor a browser

.PHONY: lint
lint: .venv/.dev  ## ruff: rules and format; towncrier: the newsfragments' names
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	news=$$($(BIN)/towncrier build --draft --version next 2>&1) || { echo "$$news"; exit 1; }

.PHONY: types
types: .venv/.dev  ## mypy, strict
	$(BIN)/mypy

.PHONY: unit
unit: .venv/.dev  ## The tests in memory, which cover every line and branch
	# Measured from outside: pytest loads our own plugin before one of its plugins could measure.
	$(BIN)/coverage run -m pytest -q tests --ignore tests/live --ignore tests/browser
	$(BIN)/coverage report

.PHONY: trial
trial: .venv/.dev  ## The same tests under Twisted's own runner
	$(BIN)/python -W error -W ignore:twisted.web.resource._Unsafe:DeprecationWarning \
		-m twisted.trial --reporter=text -j 2 tests

.PHONY: django
django: .venv/.django  ## Django views on the oldest Django; "make unit" has the newest
	PYTHONPATH=.venv/django $(BIN)/pytest -q tests/test_django.py tests/test_runpushd.py

.PHONY: live
live: systemd nginx redis  ## Real sockets and processes, and a real Redis
	# They wait more than they work; the tests of one file follow one another.
	$(BIN)/pytest -q -n 4 --dist loadfile tests/live

.PHONY: browser
browser: chromium  ## The pages in a real Chromium
	$(BIN)/pytest -q tests/browser

.PHONY: conformance
conformance: .venv/.dev  ## The Autobahn|Testsuite, 10 minutes; needs a Python 2.7
	$(BIN)/python -m tests.conformance.run

##@ Around them

.PHONY: format
format: .venv/.dev  ## Put the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: bench
bench: .venv/bench/.ready  ## Measure pushd and its rivals, 10 minutes; BENCH='--rivals pushd,floor'
	.venv/bench/bin/python -m bench $(BENCH)

.PHONY: compare
compare: .venv/.run  ## Measure this checkout against another, BASE=DIR; BENCH='--workloads w4'
	$(BIN)/python -m bench.compare $(BASE) . $(BENCH)

.PHONY: options
options: .venv/.dev  ## Bring the table of options in docs/operations.md up to date
	$(BIN)/python -m tests.options_table

.PHONY: clean
clean:  ## Remove all that the other targets made
	rm -rf .venv build dist *.egg-info .coverage htmlcov _trial_temp* \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:  ## Show this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamps: what is installed already is not looked at again until its list changes.

.venv/.run: setup.cfg pyproject.toml | $(BIN)/pip
	@echo 'Installing pushd into .venv ...'
	$(INSTALL) -e . < /dev/null
	touch $@

.venv/.dev: setup.cfg pyproject.toml | $(BIN)/pip
	@echo 'Installing pushd and the tools for its tests into .venv ...'
	$(INSTALL) -e '.[dev]' < /dev/null
	touch .venv/.run $@

# The rivals have an environment of their own. The report names those that cannot be installed.
.venv/bench/.ready: setup.cfg pyproject.toml bench/requirements.txt | $(BIN)/pip
	@echo 'Installing pushd and its rivals into .venv/bench ...'
	command -v g++ > /dev/null || { $(APT) update && $(APT) install -y g++; } < /dev/null
	$(BIN)/python -m venv .venv/bench
	$(subst $(BIN),.venv/bench/bin,$(INSTALL)) -e . -r bench/requirements.txt < /dev/null
	if command -v npm > /dev/null; then
		npm install --prefix .venv/bench/node --no-audit --no-fund --silent ws < /dev/null || true
	fi
	touch $@

# The oldest Django that setup.cfg allows, beside the newest that this Python can have.
.venv/.django: setup.cfg | .venv/.dev
	@version=$$(sed -n 's/^ *django >= //p' setup.cfg)
	echo "Installing Django $$version into .venv/django ..."
	rm -rf .venv/django
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input \
		--target .venv/django "django==$$version" < /dev/null
	touch $@

# Debian and Ubuntu ship ensurepip, which venv needs, in a package of its own.
$(BIN)/pip:
	@if [ -z '$(PYTHON)' ]; then
		echo 'pushd needs Python 3.11 or newer: apt-get install python3' >&2
		exit 1
	fi
	if ! $(PYTHON) -c 'import ensurepip, venv' 2> /dev/null; then
		package=$$($(PYTHON) -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
		echo "Installing $$package ..."
		$(APT) update && $(APT) install -y --no-install-recommends $$package || {
			echo "$(PYTHON) cannot make virtual environments: apt-get install $$package" >&2
			exit 1
		}
	fi < /dev/null
	$(PYTHON) -m venv --clear .venv

# The units are checked where systemd-analyze is, which CI has for that.
.PHONY: systemd
systemd: .venv/.dev
	@if ! command -v systemd-analyze > /dev/null; then
		echo 'Installing systemd, for systemd-analyze ...'
		{ $(APT) update && $(APT) install -y --no-install-recommends systemd; } ||
			echo 'Without systemd-analyze the units are not checked' >&2
	fi < /dev/null

.PHONY: redis
redis:
	@if ! command -v redis-server > /dev/null; then
		echo 'Installing Redis ...'
		# Not to run: the tests start their own.
		$(APT) update && $(APT) install -y --no-install-recommends redis-server || {
			echo 'The live tests need Redis: apt-get install redis-server' >&2
			exit 1
		}
	fi < /dev/null

# The system's Chromium where it is a package: Debian. On Ubuntu it is a snap, so there
# Playwright fetches its own, which the tests take when there is no command chromium.
.PHONY: chromium
chromium: .venv/.dev
	@if ! command -v chromium > /dev/null && [ ! -e .venv/.chromium ]; then
		echo 'Installing Chromium ...'
		{ $(APT) update && $(APT) install -y --no-install-recommends chromium; } ||
		{ $(BIN)/playwright install --with-deps chromium && touch .venv/.chromium; } || {
			echo 'The browser tests need Chromium: apt-get install chromium' >&2
			exit 1
		}
	fi < /dev/null

# The tests run one of their own; the service that Debian starts with the package is not touched.
.PHONY: nginx
nginx:
	@if ! PATH=$$PATH:/usr/sbin command -v nginx > /dev/null; then
		echo 'Installing nginx ...'
		$(APT) update && $(APT) install -y --no-install-recommends nginx || {
			echo 'The live tests need nginx: apt-get install nginx' >&2
			exit 1
		}
	fi < /dev/null
