# make demo   trains LeNet-5 on real digits, with its pictures in runs/lenet/
# make example-NAME  runs examples/NAME.py, such as example-weight_sharing; ARGS=--help tells its options
# make test   runs the tests, in random order
# make bench  measures jconv beside lax, PyTorch and the layer libraries of JAX; make bench-quick is short
# make test-gpu, make bench-gpu  the tests, and layers beside lax and PyTorch, on an NVIDIA GPU; with GPU_PYTHON=python3 by
#             an environment that is there already, and nothing is installed
# make docs   builds the documentation site in site/; make docs-serve shows it and follows what is edited
# make lint   ruff and pyright
# make sanitize  the tests of the oneDNN plug-in under the address and undefined-behaviour sanitizers; make soak: many calls
# Each makes its own environment in $(VENV) first, and does nothing there when nothing changed. Where a C++ compiler is
# found they build and use the oneDNN plug-in; PLUGIN=off leaves it out.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
TORCH ?= torch==2.13.0
PLUGIN ?= on
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -gt 4 ] && echo 4 || echo $$n)

.PHONY: demo test test-gpu bench bench-quick bench-gpu sanitize soak docs docs-serve docs-pictures lint format clean
.SUFFIXES:
.PRECIOUS: $(VENV)/has-%

$(VENV)/made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = v >= (3, 11); print("" if ok else f"jconv needs Python 3.11 or newer; this is {v[0]}.{v[1]}. Set PYTHON=...", end="" if ok else "\n"); sys.exit(not ok)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# one stamp for each extra that is installed: .venv/has-test and so on
$(VENV)/has-%: $(VENV)/made pyproject.toml
	$(INSTALL) --editable '.[$*]'
	@touch $@

# Compiled beside the jaxlib that runs it. What hinders it is said in one line, and all goes on without it.
ONEDNN := onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0
ifeq ($(PLUGIN),off)
export JCONV_PLUGINS := off
else
WITH := $(VENV)/onednn-tried
endif
$(VENV)/onednn-tried: $(VENV)/made $(wildcard plugins/onednn/* plugins/onednn/*/*)
	@if [ "$$(uname -sm)" != 'Linux x86_64' ]; then echo 'oneDNN plug-in: for Linux on x86-64 alone; jconv runs without it'; \
	elif ! command -v $(CXX) >/dev/null; then echo 'oneDNN plug-in: no C++ compiler ($(CXX)); jconv runs without it'; \
	elif { $(INSTALL) --editable . 'scikit-build-core>=0.10' 'cmake>=3.18' ninja $(ONEDNN) && \
	  CXX=$(CXX) $(INSTALL) --no-build-isolation --no-deps --force-reinstall ./plugins/onednn; } >$(VENV)/onednn.log 2>&1; \
	then touch $@; else echo 'oneDNN plug-in: does not build, $(VENV)/onednn.log says why; jconv runs without it'; fi

demo: example-lenet_digits

example-%: $(VENV)/has-examples $(WITH)
	$(BIN)/python examples/$*.py $(ARGS)

test: $(VENV)/has-test $(WITH)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(ARGS)

bench: $(VENV)/has-bench $(VENV)/torch-tried $(WITH)
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(VENV)/has-bench $(VENV)/torch-tried $(WITH)
	$(BIN)/python -m benchmarks --quick $(ARGS)

# XLA takes memory as it needs it, since there are several processes.
GPU_PYTHON ?= $(BIN)/python
GPU_ENV := XLA_PYTHON_CLIENT_PREALLOCATE=false JCONV_PLUGINS=off
ifeq ($(GPU_PYTHON),$(BIN)/python)
FOR_GPU := $(VENV)/has-test $(VENV)/has-cuda
TORCH_FOR_GPU := $(VENV)/torch-tried
endif

test-gpu: $(FOR_GPU)
	$(GPU_ENV) JCONV_TEST_PLATFORM=gpu $(GPU_PYTHON) -m pytest -q -n $(WORKERS) --dist worksteal $(ARGS)

bench-gpu: $(FOR_GPU) $(TORCH_FOR_GPU)
	$(GPU_ENV) $(GPU_PYTHON) -m benchmarks --device gpu $(ARGS)

# PyTorch is large, and not to be had for every Python; without it the benchmark says that it is absent
$(VENV)/torch-tried: $(VENV)/made
	$(INSTALL) '$(TORCH)' || echo '$(TORCH) is not to be had here'
	@touch $@

sanitize: $(VENV)/has-test $(VENV)/onednn-tried
	rm -rf build/sanitized
	CXX=$(CXX) $(INSTALL) --no-build-isolation --no-deps --target build/sanitized -Ccmake.define.JCONV_SANITIZE=ON ./plugins/onednn
	PYTHONPATH=build/sanitized ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1 \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  $(BIN)/python -m pytest -q tests/test_onednn.py $(ARGS)

soak: $(VENV)/has-test $(VENV)/onednn-tried
	$(BIN)/python plugins/onednn/tests/soak.py $(ARGS)

docs: $(VENV)/has-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

docs-serve: $(VENV)/has-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve $(ARGS)

# the pictures of the pages, drawn by jconv; they are committed
docs-pictures: $(VENV)/has-examples
	$(BIN)/python docs/pictures.py $(ARGS)

lint: $(VENV)/has-test $(VENV)/has-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/has-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-* build dist site .hypothesis .ruff_cache
