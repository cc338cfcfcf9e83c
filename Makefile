# Everything runs in .venv, which `make` sets up by itself. OMP_NUM_THREADS=1: two models share the cores.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test lint unit test-servers train evaluate bench docs help

help:           ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

demo: .venv/ready     ## the embedded pair answers real questions about real images
	$(BIN)/cuecard demo

test: lint unit       ## all checks and tests

lint: .venv/ready     ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

unit: .venv/ready     ## the tests
	$(BIN)/pytest -n 2

test-servers: .venv/ready ## real vLLM and llama.cpp, a pretrained model, and clients of other projects
	tests/servers/install.sh vllm
	$(BIN)/pytest -m servers -n 0 --timeout 600 tests/servers

train: .venv/ready    ## make the embedded pair anew, under runs/pair
	$(BIN)/python -m cuecard.demo.train

evaluate: .venv/ready ## what the embedded pair shows on 1,000 held-out boards
	$(BIN)/python -m cuecard.demo.evaluate --boards 1000 --seed 0

bench: .venv/ready    ## the benchmarks, side by side
	$(BIN)/python benchmarks/run.py

docs: .venv/docs      ## the documentation as a site, under site/
	PATH=$(BIN):$$PATH NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/ready

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch .venv/docs
