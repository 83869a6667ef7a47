# Everything from a bare checkout: Python 3.11 or later and the package registries are all that is needed.
# The environment is .venv. The lock files give every package's version and hashes, and name no registry: pip's own
# settings say where packages come from.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
# Where pip is told to take packages from, uv takes them too.
UV = $(if $(INDEX),UV_DEFAULT_INDEX='$(INDEX)') $(BIN)/uv --no-config --quiet
INDEX = $(or $(PIP_INDEX_URL),$(shell $(BIN)/python -m pip config get global.index-url 2>/dev/null))
BUILD_TOOLS := uv hatchling editables

.PHONY: help
help:  ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1|/' | awk -F'|' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: demo
demo: .venv/.run  ## Kafka, two workers, a simulated shop, live; about two minutes the first time
	@$(BIN)/polytempo demo $(ARGS)

.PHONY: test
test: lint  ## everything that must hold: style, types, import contracts, tests on up to four cores
	@$(BIN)/pytest -q --numprocesses logical --maxprocesses 4 --dist worksteal $(ARGS)

.PHONY: lint
lint: .venv/.dev  ## style, types, import contracts
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo | tail -n 3

.PHONY: audit
audit: .venv/.dev  ## licences and known vulnerabilities of every dependency
	@$(BIN)/python -m tests.audit $(ARGS)

.PHONY: lock
lock: .venv/.uv  ## choose versions anew and write the lock files
	@printf '%s\n' $(BUILD_TOOLS) | $(call compile,requirements-dev.lock) --all-extras
	@printf '%s\n' $(BUILD_TOOLS) | $(call compile,requirements.lock) --extra broker --constraints requirements-dev.lock
	@touch .venv/.uv

.PHONY: clean
clean:  ## delete the environment and everything that was built
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	@find stream training tests -name __pycache__ -type d -prune -exec rm -rf {} +

compile = $(UV) pip compile --universal --python-version 3.11 --generate-hashes --upgrade --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --output-file $(1) pyproject.toml -

# Stamps: each says that the environment fits the lock file that it is newer than. Packages are added and changed, never
# taken away, so that `make demo` and `make test` share the environment; both locks hold the same versions.
.venv/.run: requirements.lock pyproject.toml .venv/.uv
	@echo "installing what the demo needs into .venv" >&2
	@$(call install,requirements.lock)

.venv/.dev: requirements-dev.lock pyproject.toml .venv/.uv
	@echo "installing everything into .venv (PyTorch is large)" >&2
	@$(call install,requirements-dev.lock)

install = $(UV) pip install --python $(BIN)/python --require-hashes --requirements $(1) \
	&& $(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable . && touch $@

# uv itself is in the lock file, with its hashes; pip takes that one entry from there.
.venv/.uv: requirements.lock
	@[ -x $(BIN)/python ] || "$$($(find_python))" -m venv .venv
	@sed -n '/^uv==/,/[^\]$$/p' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement .venv/uv.lock
	@touch $@

find_python = for python in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
		then command -v "$$python"; exit; fi; \
	done; \
	echo "error: no Python 3.11, 3.12 or 3.13 with its venv module was found." >&2; \
	echo "Install one (on Debian and Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; \
	exit 1
