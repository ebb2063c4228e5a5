# `make book` and `make test` need Python 3.11, git and make; nothing else.
PYTHON ?= python3.11
BIN := .venv/bin
# Small networks on busy machines: threads that wait must not spin.
export OMP_WAIT_POLICY := PASSIVE
CHAPTERS := $(shell find nbs -name '*.ipynb' -not -path '*/.*' | sort)

.PHONY: book test test-long test-all notebooks export lint clean

book: .venv/.installed  ## train the opening experiment, build the book
	rm -rf _build/records
	$(BIN)/epsbook repeat wrong_labels --scale laptop --out _build/records
	$(BIN)/jupyter-book build . --warningiserror --keep-going

# Neighbors share what they build, so each process gets half of them in a row, and what
# another has left when it is done; more threads would only wait for one another.
PARALLEL := -n auto --dist worksteal
test test-long: export OMP_NUM_THREADS := 1

test: .venv/.installed  ## what a change can break: pytest, notebooks from the wheel
	$(BIN)/ruff check
	$(BIN)/pytest $(PARALLEL) -m "not long"
	EPSBOOK_SCALE=smoke $(BIN)/python tests/alone.py --plain

test-long: .venv/.installed  ## the rest: every page, other arithmetic, other Pythons
	$(BIN)/pytest $(PARALLEL) -m long
	$(BIN)/python tests/arithmetic.py --checkout
	$(BIN)/python tests/pythons.py --plain 3.13

test-all: test test-long  ## and the Python between the oldest and the newest
	$(BIN)/python tests/pythons.py 3.12

notebooks: .venv/.installed  ## execute chapters at laptop scale, store outputs
	for nb in $(CHAPTERS); do EPSBOOK_SCALE=laptop TQDM_DISABLE=1 \
	  $(BIN)/jupyter execute --inplace $$nb || exit 1; done
	$(BIN)/nbdev_clean

export: .venv/.installed  ## nbs/ -> epsbook/
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

lint: .venv/.installed
	$(BIN)/pre-commit run --all-files

clean:
	rm -rf _build .venv build dist *.egg-info

.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -r requirements.lock
	$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	touch $@
