# Two commands do everything: `make run` and `make test`. Both may be repeated, also after a failure.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 3000
DJANGO_PORT ?= 8000

RIGHT_PYTHON = -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
  "This is Python %d.%d; Python 3.11 or newer is needed: make PYTHON=python3.11 ..." \
  % tuple(sys.version_info[:2]))'

.PHONY: run test check install install-test venv clean
.DEFAULT_GOAL := run

# Installs, migrates, saves the example's trees, and serves them: Dagster on http://localhost:3000, Django's admin on
# http://localhost:8000. exec: a signal reaches the command itself, which ends every process that it started.
# Its history is kept in the example's folder, whatever the environment names.
run: export DAGSTER_HOME := $(CURDIR)/example/dagster_home
run: install
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py setup_example
	@printf '%s\n' \
	  'Click:  Jobs > monthly_close > Launchpad > Launch Run' \
	  'Type:   $(BIN)/python manage.py monthly_close      (in another terminal)' \
	  'Then:   Runs, where both are listed.' ''
	@exec $(BIN)/python manage.py proctree dev --port $(PORT) --django 127.0.0.1:$(DJANGO_PORT)

# Lints, types and contracts, then the tests, those of real processes and a real browser included.
# Several at once, the long ones first: most of what they do is wait.
test: check
	$(BIN)/python -m pytest --numprocesses 4 --dist loadgroup --no-loadscope-reorder

check: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py check

install: $(VENV)/installed
install-test: $(VENV)/installed-test

# Made anew only if it is of the wrong Python: something may be running in it.
venv:
	@$(BIN)/python $(RIGHT_PYTHON) 2>/dev/null || { \
	  $(PYTHON) $(RIGHT_PYTHON) && $(PYTHON) -m venv --clear $(VENV); }

# The stamp is written last, so an installation that failed half-way is begun again.
$(VENV)/installed: pyproject.toml constraints.txt | venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,check]'
	@touch $(VENV)/installed $@

clean:
	rm -rf $(VENV) db.sqlite3*
	git clean -fdXq example/dagster_home
