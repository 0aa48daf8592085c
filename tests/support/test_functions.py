"""References to functions and back: what a row may name, and what it may not."""

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.test import override_settings

from proctree_dagster import functions
from proctree_dagster.exceptions import (
    FunctionAmbiguous,
    FunctionError,
    FunctionNotAllowed,
    FunctionNotFound,
    FunctionNotNameable,
)
from tests.app import processes
from tests.app.processes import Methods, echo, one, under_a_key

PROCESSES = "tests.app.processes"


def top_level() -> str:
    return "in no installed app"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start with nothing registered and nothing discovered, and end as it was."""
    monkeypatch.setattr(functions, "_registry", {})
    monkeypatch.setattr(functions, "_broken_modules", {})
    monkeypatch.setattr(functions, "_discovered", False)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for modules of a test's own, which are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    importlib.invalidate_caches()


# --- By module and name ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "function"),
    [
        (f"{PROCESSES}:one", one),
        (f"{PROCESSES}:asynchronous", processes.asynchronous),
        (f"{PROCESSES}:Methods.static", Methods.static),
        (f"{PROCESSES}:Methods.of_class", Methods.of_class),
    ],
)
def test_a_function_or_method_is_named_by_its_module_and_qualname(
    reference: str, function: Callable[..., Any]
) -> None:
    assert functions.reference_to(function) == reference
    assert functions.resolve(reference) == function


def test_a_resolved_class_method_knows_its_class() -> None:
    assert functions.resolve(f"{PROCESSES}:Methods.of_class")("x") == "Methods: x"


def test_a_decorated_function_is_found_as_it_was_decorated(package: Path) -> None:
    write(
        package,
        {
            "wrapped_processes.py": """
from functools import wraps

def doubled(func):
    @wraps(func)
    def wrapper(*args, **kwargs):
        return 2 * func(*args, **kwargs)
    return wrapper

@doubled
def seven():
    return 7
"""
        },
    )
    module = importlib.import_module("wrapped_processes")
    with override_settings(PROCTREE={"FUNCTION_MODULES": ["wrapped_processes"]}):
        reference = functions.reference_to(module.seven)
        assert reference == "wrapped_processes:seven"
        assert functions.resolve(reference)() == 14


# --- The allow-list -------------------------------------------------------------------------------


def test_by_default_a_row_may_name_the_packages_of_installed_apps_without_django() -> None:
    allowed = functions.allowed_modules()
    assert "tests.app" in allowed
    assert "example.ledger" in allowed
    assert not any(each.startswith(("django", "proctree_dagster")) for each in allowed)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("reports", True),
        ("reports.monthly", True),
        ("reports.monthly.deep", True),
        ("reports_of_others", False),
        ("other.reports", False),
        ("report", False),
        ("", False),
        ("os", False),
    ],
)
def test_a_module_is_allowed_under_a_prefix_of_whole_parts(module: str, expected: bool) -> None:
    with override_settings(PROCTREE={"FUNCTION_MODULES": ["reports"]}):
        assert functions.is_allowed(module) is expected


@pytest.mark.usefixtures("fresh")
def test_an_empty_list_allows_nothing_by_name() -> None:
    with override_settings(PROCTREE={"FUNCTION_MODULES": []}):
        assert functions.allowed_modules() == ()
        with pytest.raises(FunctionNotAllowed, match="there are none"):
            functions.resolve(f"{PROCESSES}:one")


def test_the_prefix_is_checked_before_anything_is_imported(package: Path) -> None:
    marker = package / "imported"
    write(
        package,
        {"forbidden_module.py": f"open({str(marker)!r}, 'w')\ndef run():\n    return 1\n"},
    )
    with pytest.raises(FunctionNotAllowed) as raised:
        functions.resolve("forbidden_module:run")
    assert "forbidden_module" not in sys.modules
    assert not marker.exists()
    assert "'forbidden_module:run' is not allowed" in str(raised.value)
    assert "tests.app" in str(raised.value)  # what is allowed …
    assert 'PROCTREE["FUNCTION_MODULES"]' in str(raised.value)  # … and what to do
    with override_settings(PROCTREE={"FUNCTION_MODULES": ["forbidden_module"]}):
        assert functions.resolve("forbidden_module:run")() == 1


@pytest.mark.parametrize(
    "reference",
    [
        "os:system",
        "posix:system",
        "subprocess:run",
        "builtins:eval",
        "builtins:exec",
        "importlib:import_module",
        "django.core.management:call_command",
        "proctree_dagster.functions:register",
        "proctree_dagster.functions:resolve",
        # Through what an allowed module has imported, or what hangs on its objects.
        f"{PROCESSES}:os.system",
        f"{PROCESSES}:os.path.join",
        f"{PROCESSES}:imported_function",
        f"{PROCESSES}:process_function",
        f"{PROCESSES}:asyncio.run",
        f"{PROCESSES}:__builtins__.eval",
        f"{PROCESSES}:__loader__.get_data",
        f"{PROCESSES}:__spec__.loader.get_data",
        f"{PROCESSES}:one.__globals__.clear",
        f"{PROCESSES}:one.__class__",
        f"{PROCESSES}:one.__call__",
        f"{PROCESSES}:one.__getattribute__",
        f"{PROCESSES}:Methods.__class__",
        f"{PROCESSES}:Methods.__subclasses__",
        f"{PROCESSES}:Methods.__base__",
        f"{PROCESSES}:Methods.mro",
        f"{PROCESSES}:half_of_echo",
        f"{PROCESSES}:half_of_echo.func.__globals__.clear",
        "tests.app.models:models.Model.delete",
        "tests.app.models:Organisation.delete",
        "tests.app.models:Organisation.objects.all",
        "tests.app.models:Organisation.objects.create",
        "tests.app.models:Organisation._meta.apps.clear_cache",
    ],
)
def test_no_way_leads_to_a_function_of_a_module_that_is_not_allowed(reference: str) -> None:
    with pytest.raises(FunctionError) as raised:
        functions.resolve(reference)
    assert isinstance(raised.value, (FunctionNotAllowed, FunctionNotFound))


def test_an_imported_function_is_refused_with_the_module_that_it_comes_from() -> None:
    with pytest.raises(FunctionNotAllowed) as raised:
        functions.resolve(f"{PROCESSES}:imported_function")
    assert "'posix'" in str(raised.value)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        (f"{PROCESSES}:gone", "names nothing"),
        (f"{PROCESSES}:Methods.gone", "names nothing"),
        (f"{PROCESSES}:", "names nothing"),
        (f"{PROCESSES}:one:two", "names nothing"),
        (f"{PROCESSES}:NOT_A_FUNCTION", "is int, which can't be called"),
        ("tests.app.gone:one", "can't be imported: ModuleNotFoundError"),
        ("tests.app.:one", "can't be imported"),
        ("gone", "No function is registered under the key 'gone'"),
        ("", "No function is registered under the key ''"),
        ("tests.app.processes.one", "No function is registered under the key"),
    ],
)
def test_a_reference_that_names_nothing_says_what_is_missing(reference: str, reason: str) -> None:
    with pytest.raises(FunctionNotFound, match=reason):
        functions.resolve(reference)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('the key is missing')", "RuntimeError: the key is missing"),
        ("def broken(:", "SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_raises_when_it_is_imported_is_not_found_with_the_reason(
    package: Path, text: str, reason: str
) -> None:
    write(package, {"broken_module.py": text})
    with (
        override_settings(PROCTREE={"FUNCTION_MODULES": ["broken_module"]}),
        pytest.raises(FunctionNotFound, match=reason),
    ):
        functions.resolve("broken_module:run")


def test_an_attribute_that_raises_is_not_found_with_the_reason(package: Path) -> None:
    write(
        package,
        {"lazy_module.py": "def __getattr__(name):\n    raise RuntimeError('not in this build')\n"},
    )
    with (
        override_settings(PROCTREE={"FUNCTION_MODULES": ["lazy_module"]}),
        pytest.raises(FunctionNotFound, match="not in this build"),
    ):
        functions.resolve("lazy_module:run")


# --- What can't be named --------------------------------------------------------------------------


def nested() -> Callable[[], int]:
    def inner() -> int:
        return 1

    return inner


def from_main() -> Callable[[], int]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def run():\n    return 1\n", namespace)
    function: Callable[[], int] = namespace["run"]
    return function


def shadowed() -> Callable[[], int]:
    """A function whose name means another one in its module."""

    def other() -> int:
        return 1

    other.__module__, other.__qualname__ = PROCESSES, "one"
    return other


def vanished() -> Callable[[], int]:
    """A function whose name means nothing in its module."""

    def other() -> int:
        return 1

    other.__module__, other.__qualname__ = PROCESSES, "gone"
    return other


class Caller:
    def __call__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: processes.a_lambda, "is a lambda"),
        (nested, "is nested in another function"),
        (lambda: partial(echo, half=True), "is a partial"),
        (lambda: processes.half_of_echo, "is a partial"),
        (from_main, "is defined in the script that runs"),
        (lambda: Methods().bound, "is something else under that name"),
        (shadowed, "is something else under that name"),
        (vanished, "can't be found under that name"),
        (Caller, "has no name of its own"),
    ],
)
def test_what_no_other_process_can_find_is_refused_with_what_to_do(
    make: Callable[[], Callable[..., Any]], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What runs the tests may have been started without a script.
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "script.py", raising=False)
    function = make() if make is not Caller else Caller()
    with pytest.raises(FunctionNotNameable) as raised:
        functions.reference_to(function)
    assert reason in str(raised.value)
    assert "Move it to the top level of a module" in str(raised.value)


def test_a_function_of_a_module_that_is_not_allowed_is_refused_with_what_to_do() -> None:
    with pytest.raises(FunctionNotAllowed) as raised:
        functions.reference_to(top_level)
    assert "'tests.support.test_functions'" in str(raised.value)
    assert "@process_function" in str(raised.value)


def test_a_builtin_is_not_allowed() -> None:
    with pytest.raises(FunctionNotAllowed):
        functions.reference_to(len)


# --- Registered keys ------------------------------------------------------------------------------


def test_a_function_registered_by_the_decorator_goes_by_its_key() -> None:
    assert functions.reference_to(under_a_key) == "registered"
    assert functions.resolve("registered") is under_a_key


@pytest.mark.usefixtures("fresh")
def test_the_decorator_returns_the_function_and_makes_any_module_nameable() -> None:
    assert functions.process_function("top")(top_level) is top_level
    assert functions.reference_to(top_level) == "top"
    assert functions.resolve("top") is top_level


@pytest.mark.usefixtures("fresh")
def test_a_registered_key_needs_no_allowed_prefix() -> None:
    functions.process_function("top")(top_level)
    with override_settings(PROCTREE={"FUNCTION_MODULES": []}):
        assert functions.resolve("top") is top_level


@pytest.mark.usefixtures("fresh")
def test_even_a_lambda_can_be_named_by_the_decorators_key() -> None:
    function = functions.process_function("lambda")(lambda: 5)
    assert functions.reference_to(function) == "lambda"


@pytest.mark.usefixtures("fresh")
def test_a_function_that_is_only_offered_goes_by_its_module() -> None:
    functions.offer("shop", one)
    assert functions.reference_to(one) == f"{PROCESSES}:one"
    functions.offer("top", top_level)
    assert functions.reference_to(top_level) == "tests.support.test_functions:top_level"
    assert functions.resolve("tests.support.test_functions:top_level") is top_level
    assert functions.resolve("top") is top_level


@pytest.mark.usefixtures("fresh")
def test_an_offer_does_not_take_a_key_from_another_function() -> None:
    functions.register("key", one)
    with pytest.raises(FunctionAmbiguous, match=f"'key' belongs to {PROCESSES}:one, by"):
        functions.offer("key", echo)
    assert functions.resolve("key") is one


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("first", [functions.offer, functions.register])
def test_a_key_that_two_functions_were_registered_under_resolves_to_none_and_names_both(
    first: Callable[..., None],
) -> None:
    first("key", one)
    if first is functions.offer:
        functions.register("key", echo)  # a module must not fail for what some tree calls its own
    else:
        with pytest.raises(FunctionAmbiguous):
            functions.register("key", echo)
    with pytest.raises(FunctionAmbiguous) as raised:
        functions.resolve("key")
    assert f"{PROCESSES}:one" in str(raised.value)
    assert f"{PROCESSES}:echo" in str(raised.value)
    assert functions.reference_to(echo) == f"{PROCESSES}:echo"


UNTOLD = """
from proctree_dagster.functions import process_function
from shared_decorators import logged

@process_function("sync")
@logged
def sync():
    return __name__
"""

LOGGED = """
def logged(func):
    def wrapper(**kwargs):
        return func(**kwargs)
    return wrapper
"""


@pytest.mark.usefixtures("fresh")
def test_two_functions_of_one_decorator_are_two_though_they_have_one_name(package: Path) -> None:
    write(
        package,
        {"shared_decorators.py": LOGGED, "first_shop.py": UNTOLD, "second_shop.py": UNTOLD},
    )
    first = importlib.import_module("first_shop")
    assert functions.resolve("sync")() == "first_shop"
    importlib.reload(first)
    assert functions.resolve("sync") is first.sync
    with pytest.raises(FunctionAmbiguous, match=r"first_shop, already.*second_shop,, too"):
        importlib.import_module("second_shop")
    with pytest.raises(FunctionAmbiguous):
        functions.resolve("sync")


@pytest.mark.usefixtures("fresh")
def test_methods_of_two_instances_are_two_functions_though_they_have_one_name() -> None:
    functions.offer("bound", Methods().bound)
    functions.offer("bound", Methods().bound)
    with pytest.raises(FunctionAmbiguous):
        functions.resolve("bound")


@pytest.mark.usefixtures("fresh")
def test_partials_that_are_made_anew_for_each_request_are_not_kept_for_ever() -> None:
    functions.register("key", one)
    for number in range(20):
        functions.offer("mine", partial(echo, number=number))
        functions.offer("bound", Methods().bound)
    assert len(functions._registry["mine"]) == len(functions._registry["bound"]) == 2
    with pytest.raises(FunctionAmbiguous):
        functions.resolve("mine")
    assert functions.resolve("key") is one


@pytest.mark.usefixtures("fresh")
def test_a_class_method_goes_by_its_key_and_is_one_function_whenever_it_is_fetched() -> None:
    functions.register("of_class", Methods.of_class)
    functions.register("of_class", Methods.of_class)
    assert functions.reference_to(Methods.of_class) == "of_class"


@pytest.mark.usefixtures("fresh")
def test_a_key_belongs_to_one_function() -> None:
    functions.register("key", one)
    functions.register("key", one)
    with pytest.raises(FunctionError) as raised:
        functions.register("key", echo)
    assert f"'key' belongs to {PROCESSES}:one already" in str(raised.value)


@pytest.mark.usefixtures("fresh")
def test_a_module_that_is_imported_anew_may_register_its_function_again() -> None:
    functions.register("key", one)

    @wraps(one)
    def again() -> int:
        return 2

    functions.register("key", again)
    assert functions.resolve("key") is again


@pytest.mark.parametrize("key", ["", " ", "a:b", ":", 5, None])
def test_a_key_is_a_text_without_a_colon(key: Any) -> None:
    with pytest.raises(FunctionError, match="non-empty string without ':'"):
        functions.register(key, one)


def test_the_decorator_without_brackets_is_refused_where_it_stands() -> None:
    with pytest.raises(FunctionError, match="non-empty string without ':', not <function one"):
        functions.process_function(one)  # type: ignore[arg-type]


def test_what_can_not_be_called_can_not_be_registered() -> None:
    with pytest.raises(FunctionError, match="can't be called"):
        functions.register("key", 5)  # type: ignore[arg-type]


# --- Autodiscovery --------------------------------------------------------------------------------


def app(name: str, processes_text: str | None) -> dict[str, str]:
    files = {f"{name}/__init__.py": ""}
    if processes_text is not None:
        files[f"{name}/processes.py"] = processes_text
    return files


REGISTERS = """
from proctree_dagster.functions import process_function

@process_function("discovered")
def run():
    return "found"
"""


@pytest.mark.usefixtures("fresh")
def test_the_processes_modules_of_installed_apps_are_imported_when_a_key_is_looked_up(
    package: Path,
) -> None:
    write(package, {**app("shop", REGISTERS), **app("plain", None)})
    with override_settings(INSTALLED_APPS=["plain", "shop"]):
        assert "shop.processes" not in sys.modules
        assert functions.resolve("discovered")() == "found"


@pytest.mark.usefixtures("fresh")
def test_a_reference_by_module_imports_no_other_processes_module(package: Path) -> None:
    write(package, app("shop", REGISTERS))
    with override_settings(INSTALLED_APPS=["tests.app", "shop"]):
        functions.resolve(f"{PROCESSES}:one")
        assert "shop.processes" not in sys.modules


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit('usage: processes')", "SystemExit: usage: processes"),
    ],
)
def test_a_processes_module_that_raises_is_logged_and_takes_no_other_down(
    package: Path, caplog: pytest.LogCaptureFixture, text: str, reason: str
) -> None:
    write(package, {**app("broken", text), **app("shop", REGISTERS)})
    logger = logging.getLogger("proctree_dagster")
    logger.addHandler(caplog.handler)
    try:
        with override_settings(INSTALLED_APPS=["broken", "shop"]):
            assert functions.resolve("discovered")() == "found"
            with pytest.raises(FunctionNotFound) as raised:
                functions.resolve("gone")
    finally:
        logger.removeHandler(caplog.handler)
    assert "The module broken.processes can't be imported." in caplog.text
    assert "'broken.processes' can't be imported" in str(raised.value)
    assert reason in str(raised.value)
    assert "@process_function('gone')" in str(raised.value)


OFFERS = (
    "from proctree_dagster.functions import offer\ndef sync():\n    pass\noffer('sync', sync)\n"
)
CLAIMS = (
    "from proctree_dagster.functions import process_function\n"
    "@process_function('sync')\ndef sync():\n    pass\n"
)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("texts", "order"),
    [
        ((CLAIMS, CLAIMS), ["shop", "bank"]),
        ((CLAIMS, CLAIMS), ["bank", "shop"]),
        ((OFFERS, OFFERS), ["shop", "bank"]),
        ((OFFERS, OFFERS), ["bank", "shop"]),
        ((OFFERS, CLAIMS), ["shop", "bank"]),
    ],
)
def test_a_key_that_two_apps_claim_is_refused_whichever_comes_first(
    package: Path, order: list[str], texts: tuple[str, str]
) -> None:
    for name, text in zip(("shop", "bank"), texts, strict=True):
        write(package, app(name, text))
    with override_settings(INSTALLED_APPS=order), pytest.raises(FunctionError) as raised:
        functions.resolve("sync")
    assert "shop.processes:sync" in str(raised.value)
    assert "bank.processes:sync" in str(raised.value)


@pytest.mark.usefixtures("fresh")
def test_an_app_in_a_single_module_takes_no_other_down(package: Path) -> None:
    # Django takes a module for an app, not only a package.
    write(package, {"single.py": "", **app("shop", REGISTERS)})
    with override_settings(INSTALLED_APPS=["single", "shop"]):
        assert apps.get_app_config("single").name == "single"
        assert functions.resolve("discovered")() == "found"


@pytest.mark.usefixtures("fresh")
def test_each_processes_module_is_imported_once_whoever_asks_first(package: Path) -> None:
    counted = "from pathlib import Path\nwith Path(__file__).with_name('count').open('a') as f:\n"
    write(
        package,
        app("shop", f"import time\ntime.sleep(0.1)\n{counted}    f.write('x')\n{REGISTERS}"),
    )
    found: list[Any] = []
    with override_settings(INSTALLED_APPS=["shop"]):
        threads = [
            threading.Thread(target=lambda: found.append(functions.resolve("discovered")()))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == ["found"] * 5
    assert (package / "shop" / "count").read_text() == "x"
