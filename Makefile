# make demo   a finished study on the embedded default: no GPU, no network, nothing to configure
# make test   the tests (no network, no GPU), in PROCESSES side by side
# make test-all  the same with many examples, every crash point and the longest studies
# make faults what happens when something goes wrong, row by row, as a table
# make check  lint, types and import contracts
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Studies wait for Ray a good part of their time: more processes than two cores keep both busy.
PROCESSES ?= 3
PYTEST  = $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder --faults

.PHONY: demo test test-all faults check clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/python -m orchestrator run --study per_persona

test: $(VENV)/.installed-dev
	$(PYTEST) --durations 30
	$(BIN)/python -m pytest -m alone

test-all: $(VENV)/.installed-dev
	$(PYTEST) --durations 30 --thorough
	$(BIN)/python -m pytest -m alone

faults: $(VENV)/.installed-dev
	$(BIN)/python -m tests.faults

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# LOCK=FILE installs what the file pins, by hash, and nothing else; CI does. The file is complete, so
# nothing is left to resolve, and modules are compiled when they are first imported.
ifdef LOCK
$(VENV)/.installed-dev: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --no-compile --require-hashes \
		--requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(VENV)/.installed $@
else
$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
endif

clean:
	rm -rf $(VENV)
