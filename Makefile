# The verbs of this project; each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install run serve test cover check fix bench

install: $(STAMP) ## the virtual environment with everything

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
	"Python 3.11+ is needed, $(PYTHON) is " + v + "; try PYTHON=python3.12")'
	@echo "setting up $(VENV), one to three minutes" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' >&2
	@touch $@

run: install  ## a real photo through the whole pipeline
	@$(BIN)/comfyfn run workflows/sample/workflow.json -o out

serve: install  ## the HTTP API on 127.0.0.1:3000
	@$(BIN)/comfyfn serve

# Tests wait for processes more than they compute: three at once keep two cores busy. Of thousands
# that do so one may lose a race with a busy machine: it is run once more, and told as RERUN.
test: check  ## lint, types, import rules, and every test that needs no GPU and no ComfyUI
	$(BIN)/python -m pytest -n 3 --reruns 1 -rR

cover: install  ## the same tests with their coverage; a tracer takes half as long again
	$(BIN)/python -m pytest -n 4 --cov --cov-report=term

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python benchmarks/bench.py all --quick
