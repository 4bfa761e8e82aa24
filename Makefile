# Out of the Snow. `make` lists the targets; `make book` and `make test` are the two that matter.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
PORT   ?= 8000
ONLY   ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Notebooks and tests run two at a time with one thread each: threads that wait for each other are slow where anything else
# runs. What tests/peers/ imports could ask a hub for things, and is told not to.
ONE_THREAD := OMP_NUM_THREADS=1
UNIT_TESTS := $(ONE_THREAD) MPLBACKEND=agg HF_HUB_OFFLINE=1
# Each begins with one half of the tests, so that what a file's tests share is made once; who is done first takes over some.
HALVES := -n 2 --dist worksteal
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=400 --nbval-sanitize-with tests/nbval_sanitize.cfg
# A notebook stays with one worker. The last chapters take longest and come first; by itself loadscope would begin with
# those that have most cells.
BY_NOTEBOOK := -n 2 --dist loadscope --no-loadscope-reorder
NOTEBOOKS := $(shell ls -r chapters/[0-9]*.ipynb) $(wildcard chapters/[A-Z]*.ipynb)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

# ---- the environment

.PHONY: setup
setup: $(STAMP) ## create .venv from the lock in requirements.txt (done by the others when needed)

# The stamp is written last, so a set-up that was cut short is done again.
$(STAMP): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) found. Install Python 3.11 or newer, or say: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), and the book needs 3.11 or newer. Say: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "Setting up $(VENV) from requirements.txt; the first time this takes a few minutes."
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

# ---- the book

.PHONY: book
book: $(STAMP) ## build the book from the committed outputs
# All pages, every time: Sphinx repeats no warning about a page that it does not read again.
	@rm -rf _build/html
	@$(BIN)/jupyter-book build . --all -W --keep-going -n --quiet
	@echo "The book is built. Open file://$(CURDIR)/_build/html/index.html, or run: make serve"

.PHONY: serve
serve: book ## build the book and serve it on http://localhost:8000 (PORT=…)
	$(BIN)/python -m http.server --directory _build/html --bind 127.0.0.1 $(PORT)

.PHONY: notebooks
notebooks: $(STAMP) ## execute and normalise the chapters (ONLY=07-training for one)
	$(BIN)/python tools/execute_notebooks.py $(ONLY)

.PHONY: normalise
normalise: $(STAMP) ## bring the chapters into normal form without executing them (ONLY=…)
	$(BIN)/python tools/execute_notebooks.py --normalise $(ONLY)

.PHONY: colab
colab: $(STAMP) ## write the chapters for Colab, with all directives resolved, to _build/colab
	$(BIN)/python tools/colab_notebooks.py

.PHONY: pdf
pdf: $(STAMP) browser ## print all chapters to _build/pdf/out-of-the-snow.pdf, and beside the pages if they are built
	@$(BIN)/jupyter-book build . --path-output _build/one --builder custom --custom-builder singlehtml --keep-going -n --quiet
	$(BIN)/python tools/print_book.py
	@if [ -d _build/html ]; then cp _build/pdf/out-of-the-snow.pdf _build/html/_static/; fi

.PHONY: wheel
wheel: $(STAMP) ## build the package, weights included, in _build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir _build/wheel .

# ---- the checks, cheapest first

.PHONY: test
test: lint browser types-and-book unit chapters look ## everything: lint, a browser, types, book, unit tests, notebooks, pages

# Each keeps one core busy, so they run at the same time.
.PHONY: types-and-book
types-and-book: $(STAMP)
	@$(MAKE) --no-print-directory types & types=$$!; $(MAKE) --no-print-directory book; book=$$?; wait $$types && exit $$book

.PHONY: lint
lint: $(STAMP) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(STAMP) ## let ruff repair what it can, and normalise the chapters
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python tools/execute_notebooks.py --normalise

.PHONY: types
types: $(STAMP) ## the type checker
	$(BIN)/basedpyright --pythonpath $(BIN)/python

.PHONY: unit
unit: $(STAMP) ## the unit tests
	$(UNIT_TESTS) $(BIN)/python -m pytest tests $(HALVES) --ignore tests/book --ignore tests/browser

.PHONY: chapters
chapters: $(STAMP) ## each notebook's form, then its outputs against a fresh run (ONLY=07-training for one)
	$(BIN)/python tools/execute_notebooks.py --check $(ONLY)
	$(ONE_THREAD) $(BIN)/python -m pytest $(NBVAL) $(BY_NOTEBOOK) $(or $(patsubst %,chapters/%.ipynb,$(ONLY)),$(NOTEBOOKS))

.PHONY: pages
pages: book look ## the built pages: requests, alt text, numbers, and in a browser formulas, widths, widgets

# What it cannot get is said where the checks that need it are left out; with CI set it fails here, before the long tests.
.PHONY: browser
browser: $(STAMP) ## find a Chromium, or get one: by apt-get as root on Debian, else by playwright; with CI set there must be one
	@$(BIN)/python -m tests.chromium

# Three at a time: a page is waited for as long as it is worked on.
.PHONY: look
look: $(STAMP) browser
	$(UNIT_TESTS) $(BIN)/python -m pytest tests/book tests/browser -n 3 --dist worksteal

# ---- for maintainers

.PHONY: lock
lock: ## write requirements.txt again from pyproject.toml (needs uv; UPGRADE=1 for newer versions)
	tools/lock.sh $(if $(UPGRADE),--upgrade)

# For part of the tests: tools/try_releases.py oldest tests/cli
.PHONY: oldest
oldest: ## the unit tests with the oldest releases that pyproject.toml allows (needs uv)
	$(PYTHON) tools/try_releases.py oldest

.PHONY: newest
newest: ## the unit tests with the newest releases of everything (needs uv)
	$(PYTHON) tools/try_releases.py newest

.PHONY: vendor
vendor: ## fetch the page's own JavaScript again (needs npm)
	tools/vendor_js.sh

.PHONY: clean
clean: ## remove what was built; `make distclean` removes .venv too
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## remove .venv as well
	rm -rf $(VENV)
