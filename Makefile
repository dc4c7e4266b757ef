# Two commands on a fresh machine: `make demo` and `make test`. Everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A laptop need not pull gigabytes of GPU packages: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH := torch==2.13.0
READY := $(VENV)/ready

.PHONY: demo test check setup clean help

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## install everything into .venv

# torch first and by itself: asked for by another package, pip would take the newest build.
$(READY): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,browser,ray,tokenizer]'
	touch $@

demo: setup  ## distil, export, quantize and measure on handwritten digits
	$(BIN)/edgekd run examples/digits.yaml --out runs/digits

# Two workers of one thread each: small models gain nothing from a second thread. Files are handed out
# in their order (tests/conftest.py), so that what one leaves running is not there when processes are
# counted.
test: setup check  ## lint, types and every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25 --durations-min 5

check: setup  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove the environment and every run
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
