# The project's commands; `make help` lists them. Needs make and Python 3.11+ with its venv module.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The same files as pip installs, with the same hashes, several at a time; where uv cannot reach the index, pip does it.
UV := uv pip install --python $(BIN)/python --system-certs --no-deps --require-hashes
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start hundreds of processes; without compiled files each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-fast kills soak bench-live bench-way reference docs coverage mutants services lock

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make the environment in .venv from the locked, hashed requirements

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $(VENV)/uv.txt
	$(BIN)/$(UV) -r requirements.lock || $(BIN)/python -m pip install --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
	touch $(STAMP)

demo: setup  ## the whole way on one machine: warehouse, devices, lake, model and ward board; Ctrl-C ends it
	$(BIN)/vitalake demo

check: setup  ## lint, types, import layers, lock and reference are fresh, the site builds; reports every failure
	@failed=""; \
	for step in "ruff check ." "ruff format --check --quiet ." "mypy" "lint-imports" "python -m docs.check" "python -m docs.site"; do \
	  echo "== $$step"; $(BIN)/$$step || failed="$$failed [$$step]"; \
	done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

# One more than processors, up to four: tests wait for processes, brokers and browsers. A file's tests share what it
# sets up.
# A run that loses a process ends at once: with another one in its place it may wait for ever (pytest-xdist #1378).
PROCESSES := -n $(shell n=$$(($$(getconf _NPROCESSORS_ONLN) + 1)); [ $$n -gt 4 ] && n=4; echo $$n) \
  --max-worker-restart 0 --dist loadfile

# Several processes of tests share the processors: threads of OpenMP and BLAS would only wait for each other, spinning.
test test-fast coverage kills: export OMP_NUM_THREADS := 1
test test-fast coverage kills: export OPENBLAS_NUM_THREADS := 1

test: setup  ## run all tests this machine can run; says which services it did not find
	$(BIN)/python -m pytest -q $(PROCESSES) -m "not kills and not ci"

test-fast: setup  ## run the unit and property tests that need no service, no training and no sandbox a question
	$(BIN)/python -m pytest -q $(PROCESSES) tests/unit tests/property -m "not slow and not postgres and not kills and not ci"

kills: setup  ## kill the lane 200 times at random moments
	$(BIN)/python -m pytest -q -m "kills"

MINUTES ?= 30

soak: setup  ## run everything at once for 30 minutes (MINUTES=) and show what grows
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

bench-live: setup services  ## measure the live lane against the bare limit on a real Kafka
	$(BIN)/python -m tests.benchmarks.live

bench-way: setup  ## measure the way from warehouse and bedside to the board, in a real browser
	$(BIN)/python -m tests.benchmarks.way

reference: setup  ## write docs/reference from the code
	$(BIN)/python -m docs.generate

docs: setup  ## build the documentation site into site/; a warning fails it
	$(BIN)/python -m docs.site

# What decides who sees what: all of it must have been run.
DECIDES := governance/access/*,governance/audit/*,governance/policy/*,governance/query/*,governance/keyuse.py,governance/errors.py

# The tests that run all of it; a line that no test here runs fails the report, whatever other tests do.
COVERS := $(addprefix tests/unit/governance/,access audit policy query test_keyuse.py test_opened.py) \
  $(patsubst %,tests/property/test_%.py,audit closing masking naming queries record_versions saying tracking) \
  tests/unit/vitalake/lake/test_message_tokens.py tests/contract

coverage: setup  ## branch coverage of what decides who sees what, which must have all of it
	$(BIN)/python -m pytest -q $(PROCESSES) $(COVERS) --cov=governance --cov-report=
	$(BIN)/coverage report --skip-covered --include '$(DECIDES)' --fail-under 100

MODULE ?= governance.policy.masking

mutants: setup  ## change a module (MODULE=, or MOST= changes of it at random) and show which changes no test notices
	$(BIN)/python -m tests.mutants $(MODULE) $(MOST)

services: .services/kafka/.fetched .services/flink/.fetched  ## fetch Apache Kafka's and Flink's jars (Maven)

.services/%/.fetched: infra/%/pom.xml
	mvn -q -B -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.services/$*
	touch $@

lock: setup  ## resolve the dependencies anew and write requirements.lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --generate-hashes --no-emit-index-url --python-version 3.11 -o requirements.lock --quiet
