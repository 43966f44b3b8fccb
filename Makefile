# make run    the main job: no download, no argument (ARGS="--lag 3" passes flags on)
# make test   the tests, in two processes
# make test-slow   those that take longer: whole jobs that die, stop and resume
# Each makes .venv on first use and reuses it.

PYTHON ?= python3
VENV := .venv
ARGS ?=

.PHONY: run test test-slow check
.DEFAULT_GOAL := run

run: $(VENV)/installed
	$(VENV)/bin/torchrun --nproc_per_node=4 launch/pipeline.py $(ARGS)

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

test-slow: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2 -m slow $(ARGS)

check: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one by make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	@touch $@
