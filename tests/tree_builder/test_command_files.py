"""The commands that ``create_command()`` writes, and the command that they all are."""

import ast
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRunStatus
from django.core.management import CommandError as DjangoCommandError
from django.core.management import call_command

from proctree_dagster.domain import run_tags
from proctree_dagster.exceptions import CommandError, TreeNotSaved
from proctree_dagster.management.base import TreeCommand
from proctree_dagster.tree_builder import ProcessTreeInstance
from tests.app import processes

pytestmark = pytest.mark.django_db

TRICKY = 'it\'s a "tree"\n"""; import os; os.abort() #{braces} %(prog)s \\ naïve'


def saved(name: str = "sync_all") -> ProcessTreeInstance:
    tree = ProcessTreeInstance(name, overwrite=True).add_process("one", func=processes.one)
    tree.add_process("seen", func=processes.echo, dependencies=["one"])
    tree.save()
    return tree


def command(name: str = "sync_all") -> TreeCommand:
    class Command(TreeCommand):
        tree_name = name

    return Command()


class TestWriting:
    def test_a_folder_gets_a_file_named_like_the_tree(self, tmp_path: Path) -> None:
        path = saved().create_command(output_path=tmp_path / "some" / "where")
        assert path == tmp_path / "some" / "where" / "sync_all.py"
        assert "tree_name = 'sync_all'" in path.read_text()

    def test_a_path_that_ends_in_py_is_the_file(self, tmp_path: Path) -> None:
        path = saved().create_command(output_path=str(tmp_path / "other.py"))
        assert path == tmp_path / "other.py"

    def test_missing_management_packages_are_made(self, tmp_path: Path) -> None:
        saved().create_command(output_path=tmp_path / "management" / "commands")
        assert (tmp_path / "management" / "__init__.py").is_file()
        assert (tmp_path / "management" / "commands" / "__init__.py").is_file()

    def test_without_a_path_it_goes_into_the_app_of_the_first_function(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from django.apps import apps

        monkeypatch.setattr(apps.get_app_config("app"), "path", str(tmp_path))
        assert saved().create_command() == tmp_path / "management" / "commands" / "sync_all.py"

    def test_the_setting_names_another_app(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
    ) -> None:
        from django.apps import apps

        settings.PROCTREE = {"COMMANDS_APP": "ledger"}
        monkeypatch.setattr(apps.get_app_config("ledger"), "path", str(tmp_path))
        assert saved().create_command("run_it") == tmp_path / "management/commands/run_it.py"
        settings.PROCTREE = {"COMMANDS_APP": "nowhere"}
        with pytest.raises(CommandError, match="COMMANDS_APP"):
            saved().create_command("run_it")

    def test_an_installed_package_is_left_alone(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Any
    ) -> None:
        from django.apps import apps

        settings.PROCTREE = {"FUNCTION_MODULES": ["tests.app"]}
        path = tmp_path / "site-packages" / "app"
        monkeypatch.setattr(apps.get_app_config("app"), "path", str(path))
        with pytest.raises(CommandError, match="an installed package"):
            saved().create_command()

    def test_whatever_the_trees_name_holds_it_stays_a_literal(self, tmp_path: Path) -> None:
        path = saved(TRICKY).create_command(command_name="tricky", output_path=tmp_path)
        module = ast.parse(path.read_text(encoding="utf-8"))
        [assignment] = [node for node in ast.walk(module) if isinstance(node, ast.Assign)]
        assert ast.literal_eval(assignment.value) == TRICKY

    def test_writing_again_is_welcome(self, tmp_path: Path) -> None:
        first = saved().create_command(output_path=tmp_path)
        assert saved().create_command(output_path=tmp_path) == first

    def test_what_a_formatter_did_to_the_file_is_kept(self, tmp_path: Path) -> None:
        path = saved().create_command(output_path=tmp_path)
        formatted = path.read_text().replace("'sync_all'", '"sync_all"')
        path.write_text(formatted)
        saved().create_command(output_path=tmp_path)
        assert path.read_text() == formatted

    def test_a_file_that_was_not_generated_is_never_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "sync_all.py").write_text("# mine\n")
        with pytest.raises(CommandError, match="was not written by create_command"):
            saved().create_command(output_path=tmp_path)
        assert (tmp_path / "sync_all.py").read_text() == "# mine\n"

    def test_the_command_of_another_tree_is_never_overwritten(self, tmp_path: Path) -> None:
        saved("other").create_command("shared", tmp_path)
        with pytest.raises(CommandError, match="command of another tree"):
            saved().create_command("shared", tmp_path)

    @pytest.mark.parametrize("name", ["../x", "class", "a-b", "", "1st", "a.b", "_hidden", "a b"])
    def test_a_command_name_must_be_a_python_module_name(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(CommandError, match="is no name for a command"):
            saved().create_command(command_name=name, output_path=tmp_path)
        assert not list(tmp_path.iterdir())

    def test_a_tree_whose_name_is_no_module_name_asks_for_one(self, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match="give a command_name"):
            saved("hourly sync").create_command(output_path=tmp_path)

    @pytest.mark.parametrize("name", ["migrate", "runserver", "setup_example", "shell"])
    def test_no_command_of_djangos_or_of_an_app_is_shadowed(
        self, tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(CommandError, match=f"There is a command '{name}' already"):
            saved().create_command(command_name=name, output_path=tmp_path)

    def test_the_tree_must_be_saved_first(self, tmp_path: Path) -> None:
        tree = ProcessTreeInstance("unsaved").add_process("one", func=processes.one)
        with pytest.raises(TreeNotSaved):
            tree.create_command(output_path=tmp_path)


class TestRunning:
    def test_it_shows_progress_and_prints_the_results(self, instance: DagsterInstance) -> None:
        saved()
        out = StringIO()
        call_command(command(), "--context", '{"tenant_id": "123"}', stdout=out)
        lines = [line.strip() for line in out.getvalue().splitlines()]
        assert lines[:5] == [
            "Running 'sync_all'",
            "running   one",
            "completed one",
            "running   seen",
            "completed seen",
        ]
        assert 'seen: {"tenant_id": "123", "one": 1}' in lines
        [run] = instance.get_runs()
        assert run.tags[run_tags.TRIGGERED_BY] == "command"
        assert f"Run {run.run_id}" in lines

    def test_a_tree_that_fails_ends_it_with_the_reason(self, instance: DagsterInstance) -> None:
        tree = ProcessTreeInstance("sync_all").add_process("bad", func=processes.fail)
        tree.save()
        with pytest.raises(DjangoCommandError, match="bad: ValueError: this process always fails"):
            call_command(command(), stdout=StringIO())

    @pytest.mark.parametrize(
        ("context", "reason"),
        [
            ("{", "not valid JSON"),
            ("[1]", "must be a JSON object"),
            ("", "not valid JSON"),
            ('{"a": NaN}', "JSON can't store"),
            ('{"a": {"$date": "never"}}', "reserved key"),
        ],
    )
    def test_a_context_that_is_bad_ends_it_with_the_reason(
        self, instance: DagsterInstance, context: str, reason: str
    ) -> None:
        saved()
        with pytest.raises(DjangoCommandError, match=reason):
            call_command(command(), "--context", context, stdout=StringIO())
        assert instance.get_runs() == []

    def test_an_unknown_tree_ends_it_with_its_name(self) -> None:
        with pytest.raises(DjangoCommandError, match="no process tree called 'gone'"):
            call_command(command("gone"), stdout=StringIO())

    def test_submit_queues_the_run_and_prints_its_address(
        self, instance: DagsterInstance, settings: Any
    ) -> None:
        settings.PROCTREE = {**settings.PROCTREE, "DAGSTER_URL": "http://dagster.example"}
        saved()
        out = StringIO()
        call_command(command(), "--submit", stdout=out)
        [run] = instance.get_runs()
        assert run.status == DagsterRunStatus.QUEUED
        assert f"http://dagster.example/runs/{run.run_id}" in out.getvalue()

    def test_its_help_survives_any_name(self) -> None:
        done = command(TRICKY).create_parser("manage.py", "tricky").format_help()
        assert "Run the process tree" in done


def test_a_generated_file_is_a_command(tmp_path: Path) -> None:
    path = saved(TRICKY).create_command("tricky", tmp_path)
    program = (
        "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'tests.settings'; "
        "import django; django.setup(); import runpy; "
        f"print(ascii(runpy.run_path({str(path)!r})['Command']().tree_name))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == ascii(TRICKY), done.stderr
