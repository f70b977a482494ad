# make demo   trains LeNet-5 on real digits, with its pictures in runs/lenet/
# make test   runs the tests
# make bench  measures jconv beside lax, PyTorch and the layer libraries of JAX; make bench-quick is short
# make lint   ruff and pyright
# Each makes its own environment in $(VENV) first, and does nothing there when nothing changed.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -gt 4 ] && echo 4 || echo $$n)

.PHONY: demo test bench bench-quick lint format clean
.SUFFIXES:

$(VENV)/made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = v >= (3, 11); print("" if ok else f"jconv needs Python 3.11 or newer; this is {v[0]}.{v[1]}. Set PYTHON=...", end="" if ok else "\n"); sys.exit(not ok)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# one stamp for each extra that is installed: .venv/has-test and so on
$(VENV)/has-%: $(VENV)/made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

demo: $(VENV)/has-examples
	$(BIN)/python examples/lenet_digits.py $(ARGS)

test: $(VENV)/has-test
	$(BIN)/python -m pytest -q -n $(WORKERS) $(ARGS)

bench: $(VENV)/has-bench $(VENV)/torch-tried
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(VENV)/has-bench $(VENV)/torch-tried
	$(BIN)/python -m benchmarks --quick $(ARGS)

# PyTorch is large, and not to be had for every Python; without it the benchmark says that it is absent
$(VENV)/torch-tried: $(VENV)/made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' || echo '$(TORCH) is not to be had here'
	@touch $@

lint: $(VENV)/has-test $(VENV)/has-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/has-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-* build dist site .hypothesis .ruff_cache
