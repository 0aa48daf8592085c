"""The admin in German and Afrikaans: every text is translated, and the pages show it."""

import ast
import gettext
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.utils import translation

import proctree_dagster
from proctree_dagster.models import ProcessTree
from tests.admin.people import ADMIN, browser, text_of
from tests.admin.routes import make_rows
from tests.conftest import skip_without

PACKAGE = Path(proctree_dagster.__file__).parent
LANGUAGES = ("af", "de")
KEPT = ("*.pyc", "static", "locale")


def catalogue(language: str) -> Path:
    return PACKAGE / "locale" / language / "LC_MESSAGES" / "django.po"


def tool(*command: str) -> None:
    """Run a tool of GNU gettext; what it finds is the failure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts of the package as they are now."""
    if shutil.which("xgettext") is None:
        skip_without("gettext")
    copy = tmp_path_factory.mktemp("texts") / "package"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns(*KEPT))
    (copy / "locale").mkdir()
    make = ("makemessages", "--locale=de", "--keep-pot", "--no-location", "-v0")
    command = (sys.executable, "-m", "django", *make)
    env = {name: each for name, each in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    subprocess.run(command, cwd=copy, env=env, check=True, timeout=120)
    return copy / "locale" / "django.pot"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated(template: Path, language: str) -> None:
    """None is missing, empty or doubtful. If one is: ``make messages``, then translate it."""
    tool("msgcmp", str(catalogue(language)), str(template))


def test_no_text_stands_in_an_f_string() -> None:
    """Debian's ``xgettext`` does not find it there, so nobody is asked to translate it."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        texts = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.JoinedStr)]
        calls = [n for text in texts for n in ast.walk(text) if isinstance(n, ast.Call)]
        names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
        found += [f"{path.name}: {name}" for name in names if name == "_" or "gettext" in name]
    assert found == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_placeholders_of_its_text(
    template: Path, language: str, tmp_path: Path
) -> None:
    tool("msgfmt", "--check-format", f"--output-file={tmp_path}/checked", str(catalogue(language)))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_compiled_catalogue_is_that_of_the_texts(
    template: Path, language: str, tmp_path: Path
) -> None:
    compiled = tmp_path / "django.mo"
    tool("msgfmt", f"--output-file={compiled}", str(catalogue(language)))
    there = catalogue(language).with_suffix(".mo")
    assert texts(there) == texts(compiled)


def texts(compiled: Path) -> dict[object, str]:
    """Return the translations of a compiled catalogue, without its header."""
    with compiled.open("rb") as file:
        found: dict[object, str] = vars(gettext.GNUTranslations(file))["_catalog"]
    return {text: said for text, said in found.items() if text}


SAID = {
    "de": {
        "overview": "Überfällig",
        "processtreeschedule": "nächster Lauf",
        "processtree/add": "Weiteren Prozess hinzufügen",
        "trigger/add": "Was ihn auslöst",
        "outboxrun": "anstehende Läufe",
        "run": "Jeder Tag",
    },
    "af": {
        "overview": "Agterstallig",
        "processtreeschedule": "volgende lopie",
        "processtree/add": "Voeg nog 'n proses by",
        "trigger/add": "Wat dit laat afgaan",
        "outboxrun": "lopies wat wag",
        "run": "Enige dag",
    },
}


@pytest.mark.django_db
@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_are_in_the_language_of_the_request(language: str) -> None:
    make_rows()
    client = browser(User.objects.create_superuser("superuser"))
    for page, said in SAID[language].items():
        with translation.override(language):
            text = text_of(client.get(f"{ADMIN}/{page}/"))
        assert said.lower() in text.lower(), page


@pytest.mark.django_db
def test_a_refusal_is_in_the_language_of_the_request() -> None:
    client = browser(User.objects.create_superuser("superuser"))
    with translation.override("de"):
        answer = client.post(f"{ADMIN}/processtree/add/", {"name": "t", "processes": "["})
    assert "Geben Sie gültiges JSON ein: Zeile 1, Spalte 2" in text_of(answer)
    assert not ProcessTree.objects.exists()
