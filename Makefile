# Everything runs in .venv, which `make` sets up by itself. OMP_NUM_THREADS=1: two models share the cores.
PYTHON ?= python3
BIN := .venv/bin
FAST := tests/answers tests/domain tests/strategies tests/test_house.py tests/test_contributing.py
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
EVALUATED := short:small,short:large,reason:small,reason:large,transfer,mutual,mutual/accept=agree

.PHONY: demo test check lint unit slow test-servers train evaluate bench docs help

help:           ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

demo: .venv/ready     ## the embedded pair answers real questions about real images, for about a minute
	$(BIN)/cuecard demo

test: lint unit       ## all checks, and the tests that are not slow

check: lint           ## what to run while writing: all checks, and the tests of strategies, answers and the layout
	$(BIN)/pytest -n 4 -m 'not slow and not servers' $(FAST)

lint: .venv/ready     ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

unit: .venv/ready     ## the tests that are not slow
	$(BIN)/pytest -n 4 -m 'not slow and not servers'

slow: .venv/docs      ## the slow tests: killed runs, training, a cluster, large files, the site
	$(BIN)/pytest -n 3 --dist loadgroup -m 'slow and not servers'

test-servers: .venv/ready ## real vLLM and llama.cpp, a pretrained model, and clients of other projects
	tests/servers/install.sh vllm
	$(BIN)/pytest -m servers -n 0 --timeout 600 tests/servers

train: .venv/ready    ## make the embedded pair anew, under runs/pair
	$(BIN)/python -m training.train

evaluate: .venv/ready ## what the embedded pair shows on held-out boards, long boards and shapes
	$(BIN)/cuecard eval boards --live --out runs/evaluate --strategies $(EVALUATED)
	$(BIN)/cuecard eval easy-vqa:count=1000 --live --out runs/evaluate-easy-vqa --strategies $(EVALUATED)
	$(BIN)/cuecard eval boards:mix=long,count=500 --live --out runs/evaluate-long --strategies $(EVALUATED)
	$(BIN)/cuecard eval boards:look=changed,count=300 --live --out runs/evaluate-changed --strategies $(EVALUATED)
	for run in runs/evaluate*; do $(BIN)/cuecard report $$run; done

bench: .venv/ready    ## the benchmarks, side by side
	$(BIN)/python benchmarks/run.py

docs: .venv/docs      ## the documentation as a site, under site/
	PATH=$(BIN):$$PATH NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/ready: pyproject.toml constraints.txt
	@echo "Setting up .venv, once: PyTorch and the packages of constraints.txt, 2.4 GB on disk."
	@echo "This takes 3 to 10 minutes, by the speed of the network; pip prints nothing meanwhile."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/ready

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch .venv/docs
