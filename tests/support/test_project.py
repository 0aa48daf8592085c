"""What a project needs to write for Dagster: nothing."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance
from django.core.management import CommandError, call_command
from django.test import override_settings
from pytest_django import Settings

from proctree_dagster import conf
from proctree_dagster.exceptions import InstanceError
from proctree_dagster.management.dev_server import Address
from proctree_dagster.services import system_checks, webserver
from proctree_dagster.support import project
from proctree_dagster.support.os_processes import Identity
from tests.tools import TOP

ASK = """
import json, django
django.setup()
from proctree_dagster.support import project
print(json.dumps([project.definitions(), project.working_directory(), project.home()]))
"""

SETTINGS = """
SECRET_KEY = "no secret"
USE_TZ = True
INSTALLED_APPS = ["proctree_dagster"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""


def asked(folder: Path, settings: str = "mysite.settings", **environment: str) -> list[Any]:
    """Return what a process of a project says of its code location, its folder and its home."""
    kept = {key: value for key, value in os.environ.items() if key != "DAGSTER_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=folder,
        env={**kept, "DJANGO_SETTINGS_MODULE": settings, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project's folder, with nothing but its settings."""
    found = tmp_path / "project"
    (found / "mysite").mkdir(parents=True)
    (found / "mysite" / "__init__.py").touch()
    (found / "mysite" / "settings.py").write_text(SETTINGS)
    return found


# --- The code location ----------------------------------------------------------------------------


def test_a_project_without_definitions_has_the_packaged_ones_and_imports_from_its_own_folder(
    folder: Path,
) -> None:
    assert asked(folder) == [project.PACKAGED, str(folder), str(folder / "dagster_home")]


def test_a_projects_own_definitions_win(folder: Path) -> None:
    (folder / "definitions").mkdir()
    (folder / "definitions" / "__init__.py").touch()
    assert asked(folder)[:2] == ["definitions", str(folder)]


def test_a_module_of_that_name_that_was_installed_is_not_the_projects(
    folder: Path, tmp_path: Path
) -> None:
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "definitions.py").touch()
    assert asked(folder, PYTHONPATH=str(installed))[0] == project.PACKAGED


def test_definitions_that_the_settings_name_win_over_both(folder: Path) -> None:
    (folder / "definitions.py").touch()
    with (folder / "mysite" / "settings.py").open("a") as settings:
        settings.write("PROCTREE = {'DEFINITIONS': 'mysite.jobs'}\n")
    (folder / "mysite" / "jobs.py").touch()
    assert asked(folder)[:2] == ["mysite.jobs", str(folder)]


def test_definitions_that_are_not_there_are_named_by_check() -> None:
    with override_settings(PROCTREE={"DEFINITIONS": "no_such_module", "DAGSTER_HOME": None}):
        found = [
            each
            for each in system_checks.check_settings(None)
            if each.id == "proctree_dagster.E008"
        ]
        assert "PROCTREE[\"DEFINITIONS\"] names 'no_such_module'" in found[0].msg
        with pytest.raises(InstanceError, match="no_such_module"):
            project.working_directory()


# --- Dagster's home -------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", ["settings", "mysite.settings", "mysite.settings.dev"])
def test_the_home_is_beside_manage_py_however_deep_the_settings_lie(
    tmp_path: Path, settings: str
) -> None:
    *packages, module = settings.split(".")
    at = tmp_path
    for package in packages:
        at = at / package
        at.mkdir()
        (at / "__init__.py").touch()
    (at / f"{module}.py").write_text(SETTINGS)
    assert asked(tmp_path, settings)[2] == str(tmp_path / "dagster_home")


def test_base_dir_says_where_the_project_lies(folder: Path, tmp_path: Path) -> None:
    with (folder / "mysite" / "settings.py").open("a") as settings:
        settings.write(f"BASE_DIR = {str(tmp_path)!r}\n")
    assert asked(folder)[2] == str(tmp_path / "dagster_home")


def test_the_environments_home_comes_before_the_default_and_the_settings_before_both(
    folder: Path, tmp_path: Path
) -> None:
    environment = str(tmp_path / "environment")
    assert asked(folder, DAGSTER_HOME=environment)[2] == environment
    with (folder / "mysite" / "settings.py").open("a") as settings:
        settings.write("PROCTREE = {'DAGSTER_HOME': '/srv/dagster'}\n")
    assert asked(folder, DAGSTER_HOME=environment)[2] == "/srv/dagster"


def test_a_home_of_none_is_the_environments_or_none(folder: Path) -> None:
    with (folder / "mysite" / "settings.py").open("a") as settings:
        settings.write("PROCTREE = {'DAGSTER_HOME': None}\n")
    assert asked(folder)[2] is None
    assert asked(folder, DAGSTER_HOME="/srv/dagster")[2] == "/srv/dagster"


def test_a_home_is_created_once_by_whoever_comes_first_and_holds_a_dagster_yaml(
    tmp_path: Path,
) -> None:
    home = str(tmp_path / "dagster_home")
    with ThreadPoolExecutor(16) as threads:
        created = list(threads.map(lambda _: project.create_home(home), range(16)))
    assert created.count(True) == 1
    assert sorted(os.listdir(home)) == [".gitignore", "dagster.yaml"]  # noqa: PTH208
    assert [each.name for each in tmp_path.iterdir()] == ["dagster_home"], "nothing is left behind"
    with DagsterInstance.from_config(home) as instance:
        assert type(instance.run_launcher).__name__ == "WarmRunLauncher"


def test_proctree_home_creates_the_home_that_the_settings_name(
    tmp_path: Path, settings: Settings, real_dagster: None
) -> None:
    home = tmp_path / "named"
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_HOME": str(home)}
    call_command("proctree", "home", stdout=StringIO())
    assert (home / "dagster.yaml").read_text() == project.TEMPLATE.read_text()


def test_a_home_that_is_there_is_not_changed(tmp_path: Path) -> None:
    assert not project.create_home(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_created_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InstanceError, match="name another folder in PROCTREE"):
        project.create_home(str(tmp_path / "file" / "dagster_home"))


def test_the_packaged_dagster_yaml_for_sqlite_is_the_examples() -> None:
    packaged, example = project.TEMPLATE, TOP / "example" / "dagster_home" / "dagster.yaml"
    assert yaml.safe_load(packaged.read_text()) == yaml.safe_load(example.read_text())


# --- ``proctree init`` ----------------------------------------------------------------------------


def test_init_writes_what_is_packaged_and_leaves_alone_what_is_there(
    folder: Path, settings: Settings
) -> None:
    settings.BASE_DIR = folder
    (folder / "workspace.yaml").write_text("mine")
    out = StringIO()
    call_command("proctree", "init", stdout=out)
    assert out.getvalue().splitlines() == [
        "Wrote definitions/__init__.py",
        "Wrote dagster_home/dagster.yaml",
        "Wrote dagster_home/.gitignore",
        "Left workspace.yaml as it is",
    ]
    assert (folder / "workspace.yaml").read_text() == "mine"
    assert "setdefault(\"DJANGO_SETTINGS_MODULE\", 'tests.settings')" in (
        (folder / "definitions" / "__init__.py").read_text()
    )
    call_command("proctree", "init", stdout=out)
    assert out.getvalue().count("as it is") == 5


@pytest.mark.parametrize("module", ["settings", "mysite.settings", "mysite.settings.dev"])
def test_init_writes_settings_for_tests_that_need_no_dagster(tmp_path: Path, module: str) -> None:
    *packages, name = module.split(".")
    at = tmp_path
    for package in packages:
        at = at / package
        at.mkdir()
        (at / "__init__.py").touch()
    (at / f"{name}.py").write_text(SETTINGS + "PROCTREE = {'CACHE': 'x'}\nCACHES = {'x': {}}\n")
    environment = {key: value for key, value in os.environ.items() if key != "DAGSTER_HOME"}

    def manage(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "django", *args],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = manage("proctree", "init", "--settings", module)
    for_tests = ".".join([*packages, "settings_for_tests"])
    assert f"Wrote {for_tests.replace('.', '/')}.py" in said
    assert asked(tmp_path, for_tests)[2] is None
    manage("check", "--settings", for_tests)
    manage("test", "--settings", for_tests)


# --- The webserver of ``proctree dev`` ------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, settings: Settings, real_dagster: None) -> str:
    """A home that the settings name, without an address of a webserver."""
    settings.PROCTREE = {"DAGSTER_HOME": str(tmp_path)}
    return str(tmp_path)


def test_other_processes_know_where_the_webserver_of_proctree_dev_answers(home: str) -> None:
    assert webserver.graphql_url() is None
    project.note_webserver(home, "http://localhost:3055", os.getpid())
    assert webserver.graphql_url() == "http://localhost:3055/graphql"
    project.forget_webserver(home, os.getpid())
    assert webserver.graphql_url() is None


def test_the_address_of_a_webserver_that_was_killed_is_not_believed(home: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    project.note_webserver(home, "http://localhost:3055", ended.pid)
    ended.wait()
    assert project.webserver_url() is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": 5}', '{"url": "http://x", "pid": []}'])
def test_a_file_that_says_nothing_of_use_is_no_webserver(home: str, content: str) -> None:
    (Path(home) / project.WEBSERVER).write_text(content)
    assert project.webserver_url() is None


def test_one_that_has_begun_meanwhile_is_not_forgotten(home: str) -> None:
    project.note_webserver(home, "http://localhost:3056", os.getppid())
    project.forget_webserver(home, os.getpid())
    assert project.webserver_url() == "http://localhost:3056"
    assert Identity.of(os.getppid()).pid == os.getppid()


def test_links_lead_to_the_site_that_runs_beside_it(home: str) -> None:
    project.note_webserver(home, "http://localhost:3055", os.getpid())
    assert project.site_url() is None
    project.note_webserver(home, "http://x:3055", os.getpid(), site="http://localhost:8055")
    assert project.site_url() == "http://localhost:8055"
    assert project.webserver_url() == "http://x:3055"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8001", "127.0.0.1:8001"),
        ("localhost", "localhost:8000"),
        ("0.0.0.0:9", "0.0.0.0:9"),
        ("[::1]:8001", "[::1]:8001"),
    ],
)
def test_an_address_is_written_as_for_runserver(text: str, address: str) -> None:
    assert str(Address.parse(text)) == address


@pytest.mark.parametrize("text", ["", ":", "a:b", "localhost:99999", "a/b", "a:1/b", "u@a:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is no address") as refused:
        call_command("proctree", "dev", "--no-login", f"--django={text}")
    assert refused.value.returncode == 2


def test_what_keeps_a_port_from_being_listened_on_is_said() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        with pytest.raises(CommandError, match=f"Port {port} of 127.0.0.1 is taken .*--port"):
            call_command("proctree", "dev", "--port", port)
    with pytest.raises(CommandError, match="Nothing can listen on port 8000"):
        call_command("proctree", "dev", "--no-login", "--django", "nowhere.invalid")


def test_dagster_and_the_site_do_not_share_a_port() -> None:
    with pytest.raises(CommandError, match="can't both listen on port 3999"):
        call_command("proctree", "dev", "--no-login", "--port=3999", "--django=localhost:3999")


def test_the_setting_wins_over_what_is_running(home: str, settings: Settings) -> None:
    settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_URL": "https://dagster.example.com"}
    project.note_webserver(home, "http://localhost:3055", os.getpid())
    assert project.webserver_url() == conf.current().DAGSTER_URL
