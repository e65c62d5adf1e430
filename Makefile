# Every target makes its own environment; nothing is done twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench clean

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/ready-dev: requirements.txt requirements-dev.txt | $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

demo: $(VENV)/ready
	$(BIN)/python test-task.py NER
	$(BIN)/python test-task-after.py NER Instance-Sequential ROME 200 204 1

test: $(VENV)/ready-dev
	$(BIN)/python prepare.py model smollm2-135m
	$(BIN)/python -m pytest -n 2

check: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

bench: $(VENV)/ready-dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV)
