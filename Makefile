# Two commands do everything: `make run` and `make test`. Both may be repeated, also after a failure.
# `make test-newest` and `make test-oldest` run the tests that need no Dagster of their own with other releases;
# `make test-dagster` runs those that touch its internals with both ends of what is allowed of Dagster alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 3000
# What installs: the environment's own pip, or another that is given, such as "uv pip".
INSTALLER ?=

RIGHT_PYTHON = -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
  "This is Python %d.%d; Python 3.11 or newer is needed: make PYTHON=python3.11 ..." \
  % tuple(sys.version_info[:2]))'

# What another Python's tests run: all but those of real stacks, unless MARKED says otherwise.
MARKED ?= not e2e
SEVERAL := --numprocesses 4 --dist loadgroup --no-loadscope-reorder
# Other releases may warn of what is to come: that is shown, and fails no test.
WARN := -W default

.PHONY: run test pytest test-newest test-oldest test-dagster check docs messages install install-test
.PHONY: test-dagster-oldest test-dagster-newest install-newest install-oldest install-dagster venv clean
.DEFAULT_GOAL := run

# Installs, migrates, saves the example's trees, and serves them on http://localhost:3000: Django's admin and, behind its
# login, Dagster's UI. exec: a signal reaches the command itself, which ends every process that it started.
# Its history is kept in the example's folder, whatever the environment names.
run: export DAGSTER_HOME := $(CURDIR)/example/dagster_home
run: install
	@$(BIN)/python manage.py migrate --verbosity 0
	@$(BIN)/python manage.py setup_example
	@printf '%s\n' \
	  'Click:  Jobs > monthly_close > Launchpad > Launch Run' \
	  'Type:   $(BIN)/python manage.py monthly_close      (in another terminal)' \
	  'Then:   Runs, where both are listed.' ''
	@exec $(BIN)/python manage.py proctree dev --port $(PORT)

# Lints, types and contracts, then the tests, those of real processes and a real browser included.
# Several at once, the long ones first: most of what they do is wait.
# `make --jobs=2 test` does both at the same time, as CI does.
test: check pytest

pytest: install-test
	env -u MAKEFLAGS $(BIN)/python -m pytest $(SEVERAL)  # make's own jobs are no business of the tests' make

# The same code on the newest Python that pyenv or the PATH offers (or NEWEST=/path/to/python), with the newest
# releases of everything that pyproject.toml allows: no constraints.
test-newest: install-newest
	$(VENV)-newest/bin/python -m pytest $(SEVERAL) $(WARN) -m '$(MARKED)'

# The same code with the oldest releases that pyproject.toml allows.
test-oldest: install-oldest
	$(VENV)-oldest/bin/python -m pytest $(SEVERAL) $(WARN) -m '$(MARKED)'

# The tests that touch Dagster's internals (INTERNALS in tests/conftest.py), with the oldest and with the newest Dagster
# that pyproject.toml allows, and the newest of everything else. `make -k test-dagster` runs both, whatever fails.
test-dagster: test-dagster-oldest test-dagster-newest

test-dagster-oldest test-dagster-newest: test-%: install-dagster
	$(VENV)-$*/bin/python -m pytest $(SEVERAL) $(WARN) -m 'internals and not e2e'

check: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py check

# Writes docs/reference.md from the docstrings, and docs/internals/dagster.md from the list of features.
docs: install
	$(BIN)/python -m scripts.reference
	$(BIN)/python -m scripts.features

# Writes new texts of the admin into the catalogues, and compiles them: run it, translate what is empty or fuzzy
# in proctree_dagster/locale/*/LC_MESSAGES/django.po, and run it again. It needs GNU gettext.
messages: install
	cd proctree_dagster && unset DJANGO_SETTINGS_MODULE && \
	  ../$(BIN)/django-admin makemessages -l af -l de --no-location --no-obsolete && \
	  ../$(BIN)/django-admin compilemessages

# $(call INSTALLER_OF,venv)
INSTALLER_OF = $(if $(INSTALLER),VIRTUAL_ENV=$(1) $(INSTALLER),$(1)/bin/pip)

install: $(VENV)/installed
install-test: $(VENV)/installed-test

# Made again only if it is of the wrong Python: something may be running in it.
venv:
	@$(BIN)/python $(RIGHT_PYTHON) 2>/dev/null || { \
	  $(PYTHON) $(RIGHT_PYTHON) && $(PYTHON) -m venv --clear $(VENV); }

# The stamp is written last, so an installation that failed half-way is begun again.
$(VENV)/installed: pyproject.toml constraints.txt | venv
	$(call INSTALLER_OF,$(VENV)) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: pyproject.toml constraints.txt | venv
	$(call INSTALLER_OF,$(VENV)) install --quiet --constraint constraints.txt --editable '.[test,check]'
	@touch $(VENV)/installed $@

# A stamp says what was installed from what, and is written last: anything else is begun again.
install-newest:
	@python='$(NEWEST)'; python=$${python:-$$($(PYTHON) scripts/newest_python.py)} && \
	  $(call INSTALL,$(VENV)-newest,--upgrade)

install-oldest:
	@python=$(PYTHON) && $(PYTHON) $(RIGHT_PYTHON) && \
	  $(call INSTALL,$(VENV)-oldest,--constraint constraints-oldest.txt)

install-dagster:
	@python=$(PYTHON) && $(PYTHON) $(RIGHT_PYTHON) && \
	  $(call INSTALL,$(VENV)-dagster-oldest,$(shell grep '^dagster' constraints-oldest.txt)) && \
	  $(call INSTALL,$(VENV)-dagster-newest,--upgrade)

# $(call INSTALL,venv,options of pip): for the shell's $python.
define INSTALL
stamp="$$("$$python" --version) $$(cat pyproject.toml constraints-oldest.txt | cksum)" && \
  { test "$$(cat $(1)/installed 2>/dev/null)" = "$$stamp" || { \
    "$$python" -m venv --clear $(1) && \
    $(call INSTALLER_OF,$(1)) install --quiet $(2) --editable '.[test]' && \
    echo "$$stamp" >$(1)/installed; }; } && \
  $(1)/bin/python -c 'from importlib.metadata import version as v; import platform; \
    print("Python", platform.python_version(), *(f"{n} {v(n)}" for n in ("django", "dagster", "sqlalchemy")))'
endef

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-oldest $(VENV)-dagster-* db.sqlite3*
	git clean -fdXq example/dagster_home
