# make demo   trains LeNet-5 on real digits, with its pictures in runs/lenet/
# make test   runs the tests
# make bench  measures the algorithms beside lax on this machine
# make lint   ruff and pyright
# Each makes its own environment in $(VENV) first, and does nothing there when nothing changed.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -gt 4 ] && echo 4 || echo $$n)

.PHONY: demo test bench lint format clean
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

bench: $(VENV)/has-bench
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/has-test $(VENV)/has-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/has-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-* build dist site .hypothesis .ruff_cache
