# make demo   quantize a trained network with two configurations and print the accuracy table
# make test   everything that must pass: ruff, mypy, pytest
# make reference   docs/reference/ from docstrings, after one of them changed
# make venv   only the virtual environment; repeated only when what it is made from changes

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DIGITS := examples/digits

.PHONY: demo test lint types unit reference venv clean

demo: $(STAMP)
	@for config in cpu dpu; do \
	  $(BIN)/quantwright quantize $(DIGITS)/model.py:digits --config $(DIGITS)/$$config.json \
	    --data $(DIGITS)/data.py:calibration --eval-data $(DIGITS)/data.py:test \
	    --out out/digits-$$config --eval --overwrite || exit $$?; \
	done
	@$(BIN)/python $(DIGITS)/summary.py out/digits-cpu out/digits-dpu

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4

reference: $(STAMP)
	$(BIN)/python docs/make_reference.py

venv: $(STAMP)

$(STAMP): pyproject.toml setup.py src/quantwright/observers/_native.c constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Quantwright needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
