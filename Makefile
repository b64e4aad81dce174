# make demo   a finished study on the embedded default: no GPU, no network, nothing to configure
# make test   the tests (no network, no GPU)
# make faults what happens when something goes wrong, row by row, as a table
# make check  lint, types and import contracts
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test faults check clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed
	$(BIN)/python -m orchestrator run --study per_persona

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --faults

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

# LOCK=FILE installs what the file pins, by hash, and nothing else; CI does.
ifdef LOCK
$(VENV)/.installed-dev: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(VENV)/.installed $@
else
$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
endif

clean:
	rm -rf $(VENV)
