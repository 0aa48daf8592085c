# Two commands do everything: `make run` and `make test`. Both may be repeated, also after a failure.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOME_OF_DAGSTER := $(CURDIR)/example/dagster_home
PORT ?= 3000
URL := http://localhost:$(PORT)

# What a command typed elsewhere needs to know, if Dagster is not where the settings say.
SETTING := $(if $(filter-out 3000,$(PORT)),EXAMPLE_DAGSTER_URL=$(URL) )

RIGHT_PYTHON = -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
  "This is Python %d.%d; Python 3.11 or newer is needed: make PYTHON=python3.11 ..." \
  % tuple(sys.version_info[:2]))'

FREE_PORT = $(BIN)/python -c 'import socket, sys; \
  sys.exit("Port $(PORT) is taken (is Dagster running already?): PORT=3001 make run" \
  if socket.socket().connect_ex(("127.0.0.1", $(PORT))) == 0 else 0)'

.PHONY: run test check install install-test venv clean
.DEFAULT_GOAL := run

# Installs, migrates, creates Dagster's databases, saves the example's trees, and starts Dagster on http://localhost:3000.
# exec: Ctrl-C reaches Dagster itself, which ends every process that it started.
run: install
	@$(FREE_PORT)
	@EXAMPLE_DAGSTER_URL= $(BIN)/python manage.py migrate --verbosity 0
	@DAGSTER_HOME=$(HOME_OF_DAGSTER) EXAMPLE_DAGSTER_URL= $(BIN)/python manage.py proctree home >/dev/null
	@EXAMPLE_DAGSTER_URL= $(BIN)/python manage.py setup_example
	@printf '\n%s\n' \
	  'Dagster is starting: open $(URL) in a few seconds.' \
	  '  Click:  Jobs > monthly_close > Launchpad > Launch Run' \
	  '  Type:   $(SETTING)$(BIN)/python manage.py monthly_close      (in another terminal)' \
	  '  Then:   Runs, where both are listed. Ctrl-C here ends everything.' ''
	@exec env DAGSTER_HOME=$(HOME_OF_DAGSTER) EXAMPLE_DAGSTER_URL=$(URL) $(BIN)/python -m dagster dev \
	  --workspace workspace.yaml --host 127.0.0.1 --port $(PORT)

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
