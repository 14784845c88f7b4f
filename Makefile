# Everything a person types. The scripts behind it install what is missing.

STATE ?= $(CURDIR)/.state
PYTHON = .venv/bin/python
# Tests run in this many processes: real VMs in one, a Docker engine in one, the rest in any.
PROCESSES ?= $(shell n=$$(nproc); [ $$n -gt 2 ] && echo $$n || echo 2)
QUICK = not (qemu or firecracker or kvm or docker or registry or postgres or root or slow)
export WARMBOOT_STATE = $(STATE)
export PATH := $(CURDIR)/.venv/bin:$(STATE)/firecracker:$(PATH):/usr/sbin:/sbin

.PHONY: help demo picture test test-quick lint bench deb setup clean

help:
	@echo "make demo    install what is missing, then show a cold and a warm start side by side"
	@echo "make picture the demo, and a picture of it for the README"
	@echo "make test    run all tests: up to half an hour on two processors"
	@echo "make test-quick  three minutes of them: pure parts, SQLite, API, command line"
	@echo "make bench   measure the figures, table on the terminal, JSON in bench/results/"
	@echo "make lint    style, types and import contracts"
	@echo "make deb     a Debian package in dist/ (RELEASE=bookworm or trixie)"
	@echo "make setup   only install what is missing"
	@echo "make clean   remove what the demo and the tests have kept (.state)"

setup:
	@scripts/setup run

demo: setup
	@$(PYTHON) -m demo

picture: setup
	@$(PYTHON) -m demo --picture docs/images/demo.svg

test: lint
	@$(PYTHON) -m pytest -n $(PROCESSES)

test-quick: lint
	@$(PYTHON) -m pytest -n $(PROCESSES) -m "$(QUICK)"
	@echo "left out: real VMs, Docker engines, registries, PostgreSQL, what needs root, and what is marked slow,"
	@echo "as tests/manager, tests/faults and tests/deploy are. What you have changed there, run by itself."

lint:
	@scripts/setup test
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports

bench: setup
	@$(PYTHON) -m bench

RELEASE ?= bookworm
deb: setup
	@$(PYTHON) scripts/build_deb.py $(RELEASE)

clean:
	rm -rf $(STATE)
