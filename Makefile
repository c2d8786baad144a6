# make demo: install what running needs, train on the default toy, evaluate, and print the table and the path of the report.
# make test: lint, types, the import contracts (make lint), and the tests that take seconds. make test-slow: the others.
# make test-browser: the report's page in a headless Chromium.
# make verify: laws, samplers, intervals, training and resuming against independent enumeration, on targets of the day.
# make docs: the documentation's site, in site/.
# make paper: every experiment of the paper, and docs/paper.md. make bench: speed against the machine's ceilings.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNNING := $(VENV)/.installed_to_run

.PHONY: venv demo lint test test-slow test-gpu test-browser bench verify docs paper format clean-venv

venv: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# what running needs; all that development needs is more
$(RUNNING): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	touch $(RUNNING)

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $(STAMP) $(RUNNING)

demo: $(RUNNING)
	$(BIN)/python train.py logger=csv

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# one thread for each of two processes: the tests' tensors are tiny
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu and not browser" -n 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[hf]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

test-browser: $(STAMP)
	@command -v chromium >/dev/null || { echo "chromium is not there: install it, on Debian with apt-get install chromium" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet -e ".[browser]"
	$(BIN)/python -m pytest -m browser tests/browser

bench: $(STAMP)
	$(BIN)/python -m bench

verify: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m mdlm_cfg.verify out=runs/verify/$$(date +%Y-%m-%d_%H-%M-%S)

docs: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python docs/build.py site

PAPER := 1d_disjoint 1d_overlap 1d_tv_vs_w 2d_projection 2d_overlap 2d_tv_vs_w 5d_hypercube \
	2507_08965_early 2507_08965_late 2507_08965_normalized

paper: $(STAMP)
	for name in $(PAPER); do $(BIN)/python train.py experiment=paper/$$name logger=csv || exit 1; done
	$(BIN)/python -m mdlm_cfg.app.pages paper runs docs/paper.md

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean-venv:
	rm -rf $(VENV)
