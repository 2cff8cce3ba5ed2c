# `make demo` and `make test` build .venv when it is missing; a second call starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch first and by its pinned version: a machine that offers a CPU build of it then uses that one.
TORCH := $(shell sed -n 's/^torch==\([^ ;]*\).*/torch==\1/p' constraints.txt)

.PHONY: demo test lint docs format clean

demo: $(VENV)/.demo
	$(BIN)/linchain compare recipes/compare-demo.yaml
	$(BIN)/linchain export "$$(ls -td runs/compare-demo/runs/linchain/seed-1-at-*/adapter | head -n 1)" runs/compare-demo/lora --to lora --overwrite

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict
	@echo "open site/index.html"

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[report]"
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@ $(VENV)/.demo
