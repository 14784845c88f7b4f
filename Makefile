# The commands for people; `make help` describes them. The scripts behind them install what is missing.

STATE ?= $(CURDIR)/.state
PYTHON = .venv/bin/python
# The number of test processes: tests with real VMs run in one, those with a Docker engine in one, others in any.
PROCESSES ?= $(shell n=$$(nproc); [ $$n -gt 2 ] && echo $$n || echo 2)
# ORDER=7: modules, and the tests in each, are shuffled by this seed, which the run prints.
SHUFFLED = $(if $(ORDER),--random-order-seed=$(ORDER))
QUICK_FOLDERS = tests/unit tests/store tests/api tests/cli
# All of them are slow, and what they import takes seconds in each process.
QUICK_FOLDERS += --ignore-glob='*/test_api_schema*.py'
# Many wait for something, so one process more than CPUs makes use of these.
QUICK_PROCESSES ?= $(shell echo $$(($$(nproc) + 1)))
QUICK = not (qemu or firecracker or kvm or docker or registry or postgres or root or slow)
# The programs that tests start read bytecode, as those of an installed warmboot do, even where a shell says no.
export PYTHONDONTWRITEBYTECODE =
export WARMBOOT_STATE = $(STATE)
export PATH := $(CURDIR)/.venv/bin:$(STATE)/firecracker:$(PATH):/usr/sbin:/sbin

.PHONY: help demo picture test test-quick lint bench deb docker-versions other-users setup clean

help:
	@echo "make demo        install what is missing, then show warm boots, an engine with a compose stack, and a worker"
	@echo "make picture     run the demo, and save a picture of it for the README"
	@echo "make test        lint, then run all tests: some forty minutes on 2 CPUs; needs root, QEMU, Docker and"
	@echo "                 PostgreSQL, which it installs if they are missing; leaves your own Docker and network alone;"
	@echo "                 ORDER=7 shuffles modules and the tests in each, by this seed"
	@echo "make test-quick  lint, then run the tests of the pure parts, SQLite, API and command line: about 3 minutes"
	@echo "make lint        check style, types and import contracts"
	@echo "make bench       measure: a table on the terminal, JSON in bench/results/; GROUPS=\"cli worker\" measures only"
	@echo "                 these; .venv/bin/python -m bench --list names groups and figures"
	@echo "make deb         build a Debian package in dist/ (RELEASE=bookworm or trixie)"
	@echo "make docker-versions   run the tests of workers on the Docker of other Debian releases"
	@echo "make other-users       run the tests of workers that are not root's, in a VM"
	@echo "make setup       only install what is missing"
	@echo "make clean       remove what the demo and the tests have stored (.state)"
	@echo "make help        print this text"

setup:
	@scripts/setup run

demo: setup
	@$(PYTHON) -m demo

picture: setup
	@$(PYTHON) -m demo --picture docs/images/demo.svg

test: lint
	@$(PYTHON) -m pytest -n $(PROCESSES) $(SHUFFLED)

test-quick: lint
	@$(PYTHON) -m pytest -n $(QUICK_PROCESSES) $(SHUFFLED) --hypothesis-profile=quick -m "$(QUICK)" $(QUICK_FOLDERS)
	@echo "Left out: tests with real VMs, Docker engines, registries, PostgreSQL or root, tests marked slow, and the"
	@echo "folders of other tests, such as tests/manager. If you have changed something there, run them yourself."

lint:
	@scripts/setup test
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports

bench: setup
	@$(PYTHON) -m bench $(GROUPS)

RELEASE ?= bookworm
deb: setup
	@$(PYTHON) scripts/build_deb.py $(RELEASE)

DOCKER_VERSIONS = bookworm trixie forky
VERSION_TESTS = tests/workers/test_worker_runtime.py tests/workers/test_worker_networks.py \
	tests/workers/test_worker_bridges.py
docker-versions: setup
	@set -e; for release in $(DOCKER_VERSIONS); do echo "The Docker of $$release:"; \
	scripts/with_docker_of.py $$release $(PYTHON) -m pytest -q $(VERSION_TESTS); done

other-users: setup
	@scripts/in_a_vm.py $(PYTHON) -m pytest -q -n0 tests/workers/test_worker_postgres.py

clean:
	rm -rf $(STATE)
