# Sagabox. `make help` lists what there is. Needs Python 3.11 or newer; uses uv where it is on PATH.

VENV ?= .venv
OLDEST := $(VENV)-sqlalchemy-2.0
MINUTES ?= 10
TRIPS ?= 500
PROCESSES ?= 3
TRANSPORT ?=
ARGS ?=
BIN := $(VENV)/bin
LOCKED := requirements/install requirements/build.txt pyproject.toml

export VENV

.DEFAULT_GOAL := help
.PHONY: help setup demo dev test test-oldest quick check deploy-check docs bench bench-setup soak protos lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.test $(OLDEST)/.made ## install everything into .venv (the other targets do it by themselves)

demo: $(VENV)/.runtime ## delete articles while services are killed, and check; TRANSPORT=grpc, nats or nats://...
	$(BIN)/sagabox demo $(if $(TRANSPORT),--transport '$(TRANSPORT)') $(ARGS)

dev: $(VENV)/.runtime ## run all services, with reload and the console, until Ctrl-C
	$(BIN)/sagabox dev --reload $(ARGS)

test: $(VENV)/.test $(OLDEST)/.made ## run all tests, in PROCESSES=3; ARGS="-k relay" chooses some
	$(BIN)/python -m pytest --again -n $(PROCESSES) --dist worksteal $(ARGS)
	$(if $(ARGS),,$(MAKE) test-oldest)

test-oldest: $(OLDEST)/.made ## run what uses SQLAlchemy on the oldest that is supported
	$(OLDEST)/bin/python -m pytest --again -n $(PROCESSES) --dist worksteal tests/contracts tests/integration/outbox \
		--ignore tests/integration/outbox/brokers --ignore tests/integration/outbox/test_renamed_tables.py $(ARGS)

quick: $(VENV)/.test ## what a change breaks most often, in two minutes: units, SQLite, some histories
	$(BIN)/python -m pytest --quick -n $(PROCESSES) --dist worksteal tests/unit tests/contracts tests/integration \
		tests/consistency $(ARGS)

deploy-check: $(VENV)/.test ## hold what deploy/ has against its schemas and against the code; starts no service
	$(BIN)/python -m pytest -q -n $(PROCESSES) -m 'not soak and not slow' tests/integration/deploy

check: $(VENV)/.test docs ## formatting, lint, types, links, and the rules of imports and public names
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/repository/test_import_rules.py \
		tests/unit/repository/test_house_rules.py tests/unit/repository/test_rooms.py \
		tests/unit/outbox/test_public_names.py
	$(MAKE) deploy-check

docs: $(VENV)/.test ## build the site of the documentation into build/site; a link that leads nowhere fails it
	$(BIN)/zensical build --strict

bench: $(VENV)/.test ## measure what the goals are about, in a quarter of an hour; ARGS="--only PART"
	$(BIN)/python -m benchmarks $(ARGS)

bench-setup: $(VENV)/.test ## install those to whom `make bench` compares, each into .bench/
	$(BIN)/python -m benchmarks.contenders.installed

soak: $(VENV)/.test ## the long tests, MINUTES=60 of them and TRIPS=500 with random faults
	SAGABOX_SOAK_MINUTES=$(MINUTES) SAGABOX_SOAK_TRIPS=$(TRIPS) $(BIN)/python -m pytest -m soak $(ARGS)

# The locks hold versions and hashes for Linux and macOS and all supported Pythons, and no address.
# ARGS=--upgrade moves to the newest versions; without it only what pyproject.toml demands changes.
COMPILE = $$uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

protos: $(VENV)/.test ## write the Python code of the .proto files anew
	$(BIN)/python -m tests.support.repository.protos

lock: ## write requirements/*.txt anew from pyproject.toml (needs uv; ARGS=--upgrade)
	@uv=$$(command -v uv || command -v $(BIN)/uv) || { \
		echo "error: make lock needs uv, which is not on PATH" >&2; exit 1; }; set -ex; \
	$(COMPILE) $(ARGS) pyproject.toml --all-extras --group test -o requirements/test.txt; \
	$(COMPILE) pyproject.toml -c requirements/test.txt -o requirements/runtime.txt; \
	$(COMPILE) --extra grpc --extra kafka --extra nats --extra otlp --extra psycopg --extra rabbitmq --extra redis \
		--extra s3 pyproject.toml -c requirements/test.txt -o deploy/requirements.txt; \
	$(COMPILE) --no-deps requirements/sqlalchemy-2.0.in -o requirements/sqlalchemy-2.0.txt; \
	$(COMPILE) --group build -c requirements/test.txt -o requirements/build.txt

clean: ## remove caches and build products (not .venv)
	rm -rf build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.test: requirements/test.txt requirements/runtime.txt $(LOCKED)
	@requirements/install test

# All that the other one has, but for SQLAlchemy.
$(OLDEST)/.made: $(VENV)/.test requirements/sqlalchemy-2.0.txt
	@requirements/install-oldest

$(VENV)/.runtime: requirements/runtime.txt $(LOCKED)
	@requirements/install runtime
