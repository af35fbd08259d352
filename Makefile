# Newcomers: `make demo`, then `make test`. Everything happens in .venv, which is made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

PROVIDER ?= cuda

.PHONY: help demo test test-long lint docs gpu clean
help:
	@echo "make demo       cut a shipped detector, prove the cut, and draw what both find"
	@echo "make test       run the tests"
	@echo "make test-long  the same, with more of what is drawn by number, and the big models run"
	@echo "make lint       ruff and mypy"
	@echo "make docs       write the generated documents anew"
	@echo "make gpu        on a machine with an NVIDIA GPU: what is wrong, the tests of devices, and figures"
	@echo "                in benchmarks/RESULTS.md; PROVIDER=cpu rehearses it on any"
	@echo "make clean      remove $(VENV) and what was built"

demo: $(VENV)/.installed
	$(BIN)/python -m models.shapes.demo

test: $(VENV)/.developing
	$(BIN)/python -m pytest -n auto

test-long: $(VENV)/.developing
	HEADCUT_LONG_TESTS=1 $(BIN)/python -m pytest -n auto

lint: $(VENV)/.developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy

docs: $(VENV)/.developing
	HEADCUT_WRITE_DOCS=1 $(BIN)/python -m pytest tests/test_docs.py tests/test_ecosystem.py \
	  tests/test_support.py

# stops with 4 and the line that mends it where the provider does not run
gpu: $(VENV)/.developing
	[ $(PROVIDER) = cpu ] || $(BIN)/python -m pip install --quiet --editable '.[cuda]'
	$(BIN)/python -m onnx_headcut doctor --provider $(PROVIDER)
	$(BIN)/python -m pytest -q tests/test_runtime.py tests/test_providers.py tests/test_devices.py \
	  tests/test_deployed.py tests/test_bench.py
	$(BIN)/python benchmarks/run.py --only device --provider $(PROVIDER)

clean:
	rm -rf $(VENV) build dist demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: say make PYTHON=python3.12, for example"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV): a few hundred MB, most of it onnxruntime; this can take minutes"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# pip knows dependency groups since 25.1
$(VENV)/.developing: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@
