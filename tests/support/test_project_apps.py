"""By default a row may name what is in the project's own apps, and nothing that was installed."""

import importlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import AppConfig
from django.test import override_settings

from proctree_dagster import functions
from proctree_dagster.exceptions import FunctionNotAllowed, FunctionNotFound
from proctree_dagster.support import project_apps
from proctree_dagster.support.project_apps import is_project_app
from tests.tools import TOP
from tests.tools.code_files import code_of

CODE = code_of(__file__)

PROCESSES = "def sync():\n    return __name__\n"


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test imports and registers."""
    before = set(sys.modules)
    monkeypatch.setattr(functions, "_registry", {})
    monkeypatch.setattr(functions, "_discovered", False)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("shop", "acme", "bank"):
            del sys.modules[name]


def package(folder: Path, name: str, processes: str = PROCESSES, init: str = "") -> Path:
    """Write an app called ``name`` into ``folder``; return ``folder``."""
    path = folder.joinpath(*name.split("."))
    path.mkdir(parents=True, exist_ok=True)
    (path / "__init__.py").write_text(init)
    (path / "processes.py").write_text(processes)
    importlib.invalidate_caches()
    return folder


def own(name: str) -> bool:
    """Return whether the app is the project's own once it is installed in Django."""
    with override_settings(INSTALLED_APPS=[name]):
        return name in functions.allowed_modules()


def dist_info(folder: Path, name: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\n")
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n{name}-1.0.dist-info/RECORD,,\n")


@pytest.mark.parametrize(
    ("below", "expected"),
    [
        ("project", True),
        ("project/src", True),
        ("project/.venv/lib/python3.11/site-packages", False),
        ("project/venv/Lib/site-packages", False),
        ("usr/lib/python3/dist-packages", False),
        ("venv/src/checkout", True),
    ],
)
def test_where_an_app_lies_says_whose_it_is(
    below: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(package(tmp_path / below, "shop")))
    assert own("shop") is expected
    with override_settings(INSTALLED_APPS=["shop"]):
        if expected:
            assert functions.resolve("shop.processes:sync")() == "shop.processes"
        else:
            with pytest.raises(FunctionNotAllowed, match=r"'shop\.processes' is under none"):
                functions.resolve("shop.processes:sync")
            with override_settings(PROCTREE={"FUNCTION_MODULES": ["shop"]}):
                assert functions.resolve("shop.processes:sync")() == "shop.processes"


def test_an_app_that_an_editable_install_puts_on_the_path_is_the_projects_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = package(tmp_path / "checkout" / "src", "shop")
    site = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    (site / "__editable__.shop-1.0.pth").write_text(f"{source}\n")
    (source / "shop.egg-info").mkdir()
    monkeypatch.syspath_prepend(str(source))
    assert own("shop")


def test_an_app_that_was_installed_into_a_folder_of_the_project_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendored = package(tmp_path / "project" / "vendor", "shop")
    dist_info(vendored, "shop")
    package(vendored, "bank")
    monkeypatch.syspath_prepend(str(vendored))
    assert not own("shop")
    assert own("bank")  # written there by hand


@pytest.mark.parametrize("link_lies", ["in site-packages", "in the project"])
def test_a_link_into_or_out_of_a_folder_of_packages_is_installed(
    link_lies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, project = tmp_path / "venv" / "site-packages", tmp_path / "project"
    here, there = (site, project) if link_lies == "in site-packages" else (project, site)
    package(there, "shop")
    here.mkdir(parents=True, exist_ok=True)
    (here / "shop").symlink_to(there / "shop")
    monkeypatch.syspath_prepend(str(here))
    assert not own("shop")


def test_an_app_in_an_archive_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "apps.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("shop/__init__.py", "")
        packed.writestr("shop/processes.py", PROCESSES)
    monkeypatch.syspath_prepend(str(archive))
    assert not own("shop")


def test_a_namespace_that_installed_packages_share_is_not_the_projects_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, site = tmp_path / "project", tmp_path / "site-packages"
    package(mine, "acme.books")
    package(site, "acme.queue")
    for folder in (mine, site):
        (folder / "acme" / "__init__.py").unlink(missing_ok=True)
        monkeypatch.syspath_prepend(str(folder))
    assert own("acme.books")
    assert not own("acme.queue")

    class Whole(AppConfig):
        path = str(mine / "acme")

    assert not is_project_app(Whole("acme", importlib.import_module("acme")))


def test_an_app_of_pythons_own_library_and_of_this_environment_is_installed() -> None:
    for module in (importlib.import_module("json"), pytest):

        class Config(AppConfig):
            path = str(Path(str(module.__file__)).parent)

        assert not is_project_app(Config(module.__name__, module))


@pytest.mark.parametrize("name", ["django.contrib.auth", "proctree_dagster"])
def test_neither_django_nor_this_package_is_ever_the_projects_own(name: str) -> None:
    assert not own(name)


def test_what_an_installed_app_registers_may_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registers = (
        "from proctree_dagster.functions import process_function\n"
        "@process_function('shop_sync')\n"
        "def sync():\n    return 'registered'\n"
        "def other():\n    return 'not registered'\n"
    )
    monkeypatch.syspath_prepend(str(package(tmp_path / "site-packages", "shop", registers)))
    with override_settings(INSTALLED_APPS=["shop"]):
        assert functions.resolve("shop_sync")() == "registered"
        assert functions.resolve("shop.processes:sync")() == "registered"
        with pytest.raises(FunctionNotAllowed):
            functions.resolve("shop.processes:other")


def test_the_error_gives_the_line_for_the_settings() -> None:
    with pytest.raises(FunctionNotAllowed) as raised:
        functions.resolve("django_q.tasks:async_task")
    line = "PROCTREE[\"FUNCTION_MODULES\"] = ['example.ledger', 'tests.app', 'django_q.tasks']"
    assert line in str(raised.value)


def test_the_answer_follows_the_installed_apps() -> None:
    assert project_apps.project_modules() == ("example.ledger", "tests.app")
    with override_settings(INSTALLED_APPS=["django.contrib.auth", "example.ledger"]):
        assert project_apps.project_modules() == ("example.ledger",)
    assert project_apps.project_modules() == ("example.ledger", "tests.app")


# --- The way to a function ------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An app of the project's own that has all sorts of things in it."""
    init = "from shop.processes import run as exported\n"
    monkeypatch.syspath_prepend(
        str(package(tmp_path, "shop", (CODE / "shop.py").read_text(), init))
    )
    (tmp_path / "shop" / "__main__.py").write_text("raise SystemExit('it was run')\n")
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    with override_settings(PROCTREE={"FUNCTION_MODULES": ["shop"]}):
        yield


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("shop.processes:run", "run"),
        ("shop:exported", "run"),
        ("shop.processes:_private", "private"),
        ("shop.processes:cached", "cached"),
        ("shop.processes:Shell.Nested.run", "nested"),
        ("shop.processes:Shell.of_class", "Shell"),
        ("shop.processes:Inherits.of_class", "Inherits"),
        ("shop.processes:shell", "shell"),
        ("shop.processes:bound", "Shell"),
    ],
)
def test_a_function_of_the_modules_own_is_found(path: str, result: str) -> None:
    assert functions.resolve(path)() == result


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    "path",
    [
        "shop.processes:subprocess.getoutput",
        "shop.processes:subprocess",
        "shop.processes:renamed",
        "shop.processes:Alias",
        "shop.processes:Popen",
        "shop.processes:Popen.communicate",
        "shop.processes:Popen.__init__",
        "shop.processes:Shell",
        "shop.processes:Shell.getoutput",
        "shop.processes:Shell.check",
        "shop.processes:Shell.secret",
        "shop.processes:Shell.Nested",
        "shop.processes:Shell.__class__",
        "shop.processes:Shell.__subclasses__",
        "shop.processes:Shell.mro",
        "shop.processes:WithMeta.secret",
        "shop.processes:WithMeta.anything",
        "shop.processes:Inherits.check_returncode",
        "shop.processes:Inherits.__class_getitem__",
        "shop.processes:shell.getoutput",
        "shop.processes:shell.secret",
        "shop.processes:shell.of_class",
        "shop.processes:quiet",
        "shop.processes:quiet.communicate",
        "shop.processes:half",
        "shop.processes:half.func",
        "shop.processes:wraps_others",
        "shop.processes:wraps_others.__wrapped__",
        "shop.processes:cached.cache_clear",
        "shop.processes:cached.__wrapped__",
        "shop.processes:run.__globals__",
        "shop.processes:run.__globals__.subprocess.getoutput",
        "shop.processes:User",
        "shop.processes:User.objects.all",
        "shop.processes:User.objects.all().delete",
        "shop.processes:User.delete",
        "shop.processes:__builtins__.eval",
        "shop.processes:__import__",
        "shop.processes:",
        "shop.processes:.run",
        "shop.processes:run.",
        "shop.processes:run()",
        "shop.processes: run",
        "shop.processes:ſhell.getoutput",
        "shop.__main__:run",
        "shop.processes.subprocess:getoutput",
        "shop..processes:run",
        "shop/processes:run",
        " shop.processes:run",
        "shop .processes:run",
        "shopping:run",
        ":run",
        ".shop:run",
    ],
)
def test_no_way_leads_out_of_the_modules_that_are_allowed(path: str) -> None:
    with pytest.raises((FunctionNotAllowed, FunctionNotFound)):
        functions.resolve(path)


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("name", ["Shell", "Popen"])
def test_a_class_is_no_process_and_says_what_to_name(name: str) -> None:
    shop = importlib.import_module("shop.processes")
    with pytest.raises(Exception, match="is a class; name a function"):
        functions.reference_to(getattr(shop, name))


def test_a_shell_command_that_an_installed_app_runs_is_not_reached_from_a_row(
    tmp_path: Path,
) -> None:
    """The row that was seen: an installed queue that calls what its argument names."""
    marker = tmp_path / "ran"
    queue = (
        "import importlib\n"
        "def async_task(func, *args, **kwargs):\n"
        "    module, name = func.rsplit('.', 1)\n"
        "    return getattr(importlib.import_module(module), name)(*kwargs['args'])\n"
    )
    site = package(tmp_path / "site-packages", "bank", queue)
    ran = subprocess.run(
        [sys.executable, "-c", (CODE / "run_the_queue.py").read_text(), str(site), str(marker)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=TOP,
        check=True,
    )
    assert ran.stdout.startswith("False"), ran
    assert "'bank.processes:async_task' is not allowed" in ran.stdout
    assert not marker.exists()
