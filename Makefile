# Every target makes its own environment; nothing is done twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what is imported, once; pip would compile everything, for a minute.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check gpu-check soak bench reproduction clean

MEND := result/models/MEND/smollm2-135m/best.safetensors

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/ready-dev: requirements.txt requirements-dev.txt requirements-lm-eval.txt | $(VENV)/ready
	$(PIP) -r requirements-dev.txt
	touch $@

demo: $(VENV)/ready
	$(BIN)/python test-task.py NER
	$(BIN)/python test-task-after.py NER Instance-Sequential ROME 200 204 1

test: $(VENV)/ready-dev
	$(BIN)/python prepare.py model smollm2-135m
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" $(COVERAGE)

check: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test COVERAGE="--cov --cov-report=term:skip-covered --cov-fail-under=90"

gpu-check: $(VENV)/ready-dev
	$(BIN)/python -m pytest -m gpu

soak: $(VENV)/ready-dev
	$(BIN)/python prepare.py model smollm2-135m
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow
	$(BIN)/python -m tests.soak

bench: $(VENV)/ready-dev
	$(BIN)/python -m benchmarks

reproduction: $(VENV)/ready $(MEND)
	$(BIN)/python sweep.py configs/reproduction.yaml --estimate
	$(BIN)/python sweep.py configs/reproduction.yaml
	$(BIN)/python sweep.py configs/reproduction-counterfact.yaml
	$(BIN)/python sweep.py configs/reproduction-long.yaml
	$(BIN)/python sweep.py configs/reproduction-long-draws.yaml
	$(BIN)/python -m benchmarks.masks --limit 24 --table docs/reproduction/masks.csv
	$(BIN)/python report.py test-result/reproduction --out docs/reproduction/report
	rm -rf docs/reproduction/draw-* docs/reproduction/long-*  # the report has all draws
	$(BIN)/python report.py test-result/reproduction/counterfact --out docs/reproduction/counterfact

$(MEND): | $(VENV)/ready
	$(BIN)/python train_MEND.py --model smollm2-135m

clean:
	rm -rf $(VENV)
