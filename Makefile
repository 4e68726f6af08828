PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# So many files of tests run at once, each worker with databases of its own, and what a file starts
# is started once; JOBS=0: one after the other.
JOBS ?= 3
# Of the tests of faults, which mostly wait, but each with a load.
FAULTS_JOBS ?= 3
# What pytest compiles of the tests is kept, whatever the shell says: the next run begins sooner.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest
AT_ONCE := -n $(JOBS) --dist loadfile --no-loadscope-reorder
# With extras, or pip takes `coverage[toml]` for a second, unpinned package once a newer one is out.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url \
	--no-strip-extras --custom-compile-command 'make lock' --python-version 3.11

.DEFAULT_GOAL := help
.PHONY: help run test test-faults check lint types coverage format migration lock bench bench-growth bench-hot bench-lookup bench-import bench-memory bench-costs bench-plots soak wheel release

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One stamp a set of dependencies: `make run` needs no test tools.
$(VENV)/%.installed: requirements-%.txt
	@.ci/venv "$(PYTHON)" $(VENV) $<
	@install -m 755 app/cli/push-tokens.sh $(BIN)/push-tokens
	@touch $@

$(BIN)/push-tokens: app/cli/push-tokens.sh $(VENV)/run.installed
	@install -m 755 $< $@

run: $(VENV)/run.installed $(BIN)/push-tokens ## Start database and service on 127.0.0.1:$PORT, and print a curl
	@exec $(BIN)/python -m app.run

test: $(VENV)/dev.installed ## Run the tests, but for the slow ones
	$(PYTEST) $(AT_ONCE)

test-faults: $(VENV)/dev.installed ## Run the slow ones: kill, freeze and fill the real parts under load
	$(PYTEST) -m alone
	$(PYTEST) -n $(FAULTS_JOBS) --dist worksteal -m "(faults or slow) and not alone"

check: lint types coverage ## Run everything that a change must pass

lint: $(VENV)/dev.installed ## Check style, and the directions of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache

types: $(VENV)/dev.installed ## Check types
	$(BIN)/mypy

# `alembic check` is among the tests: it runs on a database that they make. Some of the slow ones
# measure delays, so nothing runs beside them.
coverage: $(VENV)/dev.installed ## Run all tests and count the branches they take
	$(PYTEST) $(AT_ONCE) --cov --cov-report= --cov-fail-under=0
	$(PYTEST) -m slow --cov --cov-append --cov-report=term

format: $(VENV)/dev.installed ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

migration: $(VENV)/dev.installed ## Begin a revision: make migration m=add_kind
	@echo "$(m)" | grep -qxE '[a-z0-9_]{1,27}' || { echo "m= up to 27 of a-z, 0-9 and _"; exit 1; }
	$(BIN)/alembic revision -m "$(m)" \
		--rev-id "$$(printf %04d $$(($$(ls migrations/versions/*.py | wc -l) + 1)))_$(m)"

bench: $(VENV)/dev.installed ## Measure registrations a second (needs wrk; nginx and npm for all of it)
	$(BIN)/python -m bench

bench-growth: $(VENV)/dev.installed ## The same up to 10 million rows (needs wrk)
	$(BIN)/python -m bench.growth

bench-hot: $(VENV)/dev.installed ## Measure storage parameters: HOT ratio and bloat after a million refreshes (needs wrk)
	$(BIN)/python -m bench.hot

bench-lookup: $(VENV)/dev.installed ## Compare push.tokens.lookup with its bare SQL
	$(BIN)/python -m bench.lookup

bench-import: $(VENV)/dev.installed ## Compare the import with a bare COPY, at a million rows
	$(BIN)/python -m bench.importing

bench-memory: $(VENV)/dev.installed ## Watch the memory of the workers over a million registrations (needs wrk)
	$(BIN)/python -m bench.memory

bench-costs: $(VENV)/dev.installed ## Measure what a registration costs in CPU, WAL and bytes, at a million devices
	$(BIN)/python -m bench.costs

bench-plots: $(VENV)/bench.installed ## Draw what was measured
	$(BIN)/python -m bench.plot

soak: $(VENV)/dev.installed ## Ten minutes of registrations while connections are killed
	$(BIN)/python -m bench.soak

wheel: $(VENV)/dev.installed ## Build the wheel into dist/, with a lock that installs it and its SBOM
	@.ci/wheel dist

release: $(VENV)/dev.installed ## Tag a release and build it: make release v=1.2.3, after .ci/run
	@.ci/release "$(v)"

lock: $(VENV)/dev.installed ## Renew the locked dependencies
	$(LOCK) --group build -o requirements-build.txt
	$(LOCK) pyproject.toml -o requirements.txt
	$(LOCK) pyproject.toml --extra embedded -o requirements-run.txt
	$(LOCK) pyproject.toml --extra embedded --group dev -o requirements-dev.txt
	$(LOCK) --group bench -o requirements-bench.txt
	$(LOCK) bench/peers/fastapi/requirements.in -o bench/peers/fastapi/requirements.txt
	for folder in bench/peers/fastify examples/libraries; do \
		(cd $$folder && npm update --package-lock-only --ignore-scripts --silent) || exit 1; done
