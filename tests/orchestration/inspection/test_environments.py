"""What is installed, here and in the Python of each code location, is compared by the doctor."""

import sys
import venv
from pathlib import Path

import pytest
from dagster import DagsterInstance, ExecutorDefinition
from django.core.checks import run_checks
from pytest_django import Settings

from proctree_dagster import __version__
from proctree_dagster.models import ProcessTree
from proctree_dagster.models.validation import executor_names
from proctree_dagster.orchestration.inspection import doctor, environments
from proctree_dagster.orchestration.inspection.findings import Check, Finding, Subject
from tests.tools import TOP

pytestmark = pytest.mark.django_db


NOWHERE = Subject(None, None)


def install(folder: Path, name: str, version: str, *lines: str) -> None:
    """Write what pip would of a package, so that it is found before the one that is there."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    said = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines]
    (info / "METADATA").write_text("\n".join(said) + "\n")


def problems(check: Check, subject: Subject = NOWHERE) -> list[Finding]:
    return [finding for finding in check(subject) if finding.level != "ok"]


class TestVersions:
    def test_releases_that_fit_are_one_line_that_names_them(self) -> None:
        (finding,) = environments.check_versions(NOWHERE)
        assert finding.level == "ok"
        for part in ("Python 3.", "Django ", "Dagster 1.13.", f"proctree-dagster {__version__}"):
            assert part in finding.what

    def test_a_package_of_dagsters_of_another_release_is_an_error_that_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install(tmp_path, "dagster-postgres", "0.29.99", "Requires-Dist: dagster==1.13.99")
        monkeypatch.syspath_prepend(tmp_path)
        (finding,) = problems(environments.check_versions)
        assert finding.level == "error"
        assert finding.what.startswith("dagster-postgres 0.29.99 needs dagster==1.13.99, and 1.13.")
        assert "pip install --upgrade proctree-dagster dagster " in finding.remedy
        assert "dagster-postgres" in finding.remedy

    @pytest.mark.parametrize(
        ("name", "version"),
        [("Django", "4.2.1"), ("dagster", "1.12.3"), ("psycopg2-binary", "2.7")],
    )
    def test_a_requirement_of_ours_that_is_not_met_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str
    ) -> None:
        install(tmp_path, name, version)
        monkeypatch.syspath_prepend(tmp_path)
        said = [each.what for each in problems(environments.check_versions)]
        assert any(what.startswith("proctree-dagster ") and version in what for what in said)

    def test_an_extra_that_nobody_has_installed_is_not_missed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        extra = 'Requires-Dist: nowhere>=1; extra == "there"'
        needed = ("Requires-Dist: nothing>=1", "Provides-Extra: there")
        install(tmp_path, "proctree-dagster", "9", extra, *needed)
        monkeypatch.syspath_prepend(tmp_path)
        said = [each.what for each in problems(environments.check_versions)]
        assert "proctree-dagster 9 needs nothing, which is not installed." in said
        assert not any("nowhere" in what for what in said)

    def test_a_python_and_a_django_that_were_not_tested_are_warned_of(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        classifier = "Classifier: Programming Language :: Python :: 3.10"
        install(tmp_path, "proctree-dagster", __version__, classifier)
        monkeypatch.syspath_prepend(tmp_path)
        found = problems(environments.check_versions)
        assert [each.level for each in found] == ["warning", "warning"]
        assert [each.what.split()[0] for each in found] == ["Python", "Django"]


class TestLocations:
    @pytest.fixture
    def dagster_home(self, dagster_home: Path) -> Path:
        """A home whose ``dagster.yaml`` names nothing of ours."""
        (dagster_home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        return dagster_home

    @pytest.fixture
    def subject(self, dagster_home: Path) -> Subject:
        """A home whose ``dagster.yaml`` names one of our classes."""
        with (dagster_home / "dagster.yaml").open("a") as file:
            file.write(
                "run_coordinator:\n"
                "  module: proctree_dagster.orchestration.coordinator\n"
                "  class: StraightRunCoordinator\n"
            )
        return Subject(dagster_home, None)

    @pytest.fixture
    def project(self, tmp_path: Path, settings: Settings) -> Path:
        settings.BASE_DIR = tmp_path / "project"
        (tmp_path / "project").mkdir()
        return tmp_path / "project"

    @staticmethod
    def name_python(project: Path, python: Path | str, location: str = "theirs") -> None:
        (project / "workspace.yaml").write_text(
            "load_from:\n"
            "  - python_module:\n"
            "      module_name: theirs\n"
            f"      location_name: {location}\n"
            "      working_directory: .\n"
            f"      executable_path: {python}\n"
        )

    @staticmethod
    def create_python(folder: Path, *paths: Path | str) -> Path:
        """Return a Python of its own that finds packages in some folders."""
        venv.EnvBuilder(symlinks=True).create(folder)
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "beside.pth").write_text("\n".join(map(str, paths)))
        return folder / "bin" / "python"

    def test_a_location_whose_python_lacks_the_package_is_an_error_if_its_runs_import_it(
        self, subject: Subject, project: Path, tmp_path: Path
    ) -> None:
        python = self.create_python(tmp_path / "bare")
        self.name_python(project, python)
        (finding,) = problems(environments.check_locations, subject)
        assert finding.level == "error"
        assert "'theirs'" in finding.what
        assert "dagster.yaml names StraightRunCoordinator, so every run of it fails" in finding.what
        assert f"{python} -m pip install proctree-dagster==" in finding.remedy

    def test_where_dagster_yaml_names_nothing_of_ours_a_location_of_others_needs_no_package(
        self, dagster_home: Path, project: Path, tmp_path: Path
    ) -> None:
        self.name_python(project, self.create_python(tmp_path / "bare"))
        assert problems(environments.check_locations, Subject(dagster_home, None)) == []

    def test_the_location_of_the_trees_needs_the_package_always(
        self, dagster_home: Path, project: Path, tmp_path: Path
    ) -> None:
        self.name_python(project, self.create_python(tmp_path / "bare"), "proctree")
        (finding,) = problems(environments.check_locations, Subject(dagster_home, None))
        assert "it serves the trees" in finding.what

    def test_a_python_with_the_same_releases_is_in_order(
        self, subject: Subject, project: Path, tmp_path: Path
    ) -> None:
        packages = [path for path in sys.path if path.endswith("site-packages")]
        self.name_python(project, self.create_python(tmp_path / "own", TOP, *packages), "proctree")
        (finding,) = environments.check_locations(subject)
        assert finding.level == "ok", finding
        assert "with what runs need" in finding.what

    def test_a_python_with_another_release_of_the_package_is_warned_of(
        self, subject: Subject, project: Path, tmp_path: Path
    ) -> None:
        package = tmp_path / "old" / "proctree_dagster"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text('__version__ = "0.0.1"\n')
        self.name_python(project, self.create_python(tmp_path / "own", package.parent))
        (finding,) = problems(environments.check_locations, subject)
        assert finding.level == "warning"
        assert f"proctree-dagster is 0.0.1 there and {__version__} here" in finding.what

    def test_a_python_that_is_gone_and_one_that_says_nothing_are_errors(
        self, subject: Subject, project: Path, tmp_path: Path
    ) -> None:
        for python in (tmp_path / "gone" / "python", "/bin/false"):
            self.name_python(project, python)
            (finding,) = problems(environments.check_locations, subject)
            assert finding.level == "error"
            assert "can't be asked" in finding.what
            assert "executable_path" in finding.remedy

    def test_of_a_server_elsewhere_it_is_said_that_it_was_not_examined(
        self, subject: Subject, project: Path
    ) -> None:
        (project / "workspace.yaml").write_text(
            "load_from:\n  - grpc_server: {host: far.internal, port: 4266, location_name: far}\n"
        )
        (finding,) = environments.check_locations(subject)
        assert "'far' is served at far.internal:4266" in finding.what
        assert "was not examined" in finding.what

    def test_a_workspace_that_dagster_does_not_take_is_an_error(
        self, subject: Subject, project: Path
    ) -> None:
        (project / "workspace.yaml").write_text("load_from:\n  - python_modul: theirs\n")
        (finding,) = problems(environments.check_locations, subject)
        assert finding.level == "error"
        assert "workspace.yaml" in finding.what

    def test_a_project_without_a_workspace_and_a_location_with_this_python_need_no_line(
        self, subject: Subject, project: Path
    ) -> None:
        assert list(environments.check_locations(subject)) == []
        self.name_python(project, sys.executable)
        assert list(environments.check_locations(subject)) == []


k8s_job = ExecutorDefinition.hardcoded_executor(None)  # type: ignore[arg-type]
k8s_job.executor_creation_fn.__module__ = "dagster_k8s.executor"
in_small_pods = k8s_job.configured({}, name="in_small_pods")


def refused() -> list[str]:
    """Return what the system checks say of the executor and its launcher."""
    found = run_checks(tags=["proctree_dagster"])
    return [each.msg for each in found if each.id == "proctree_dagster.E009"]


class TestLaunchers:
    def test_an_executor_that_works_with_one_launcher_only_is_refused_with_another(
        self, dagster_home: Path, settings: Settings
    ) -> None:
        yaml = dagster_home / "dagster.yaml"
        for executor, launcher in [
            ("k8s_job", ""),
            ("ecs", "{module: dagster_k8s, class: K8sRunLauncher}"),
            ("celery_k8s", "{module: dagster_k8s.launcher, class: K8sRunLauncher}"),
            (
                "dagster_k8s.k8s_job_executor",
                "{module: proctree_dagster.orchestration.launcher, class: WarmRunLauncher}",
            ),
        ]:
            settings.PROCTREE = {**settings.PROCTREE, "EXECUTOR": executor}
            yaml.write_text(f"run_launcher: {launcher}\n")
            (said,) = refused()
            assert executor_names.launcher_of(executor) in said

    @pytest.mark.parametrize(
        ("executor", "launcher"),
        [
            ("k8s_job", "{module: dagster_k8s, class: K8sRunLauncher}"),
            ("ecs", "{module: dagster_aws.ecs, class: EcsRunLauncher}"),
            ("k8s_job", "{module: mysite.launchers, class: DerivedFromIt}"),
            ("threads", "{module: dagster_docker, class: DockerRunLauncher}"),
            ("docker", ""),
        ],
    )
    def test_one_that_it_works_with_or_that_may_be_derived_from_it_is_not_named(
        self, dagster_home: Path, settings: Settings, executor: str, launcher: str
    ) -> None:
        settings.PROCTREE = {**settings.PROCTREE, "EXECUTOR": executor}
        (dagster_home / "dagster.yaml").write_text(f"run_launcher: {launcher}\n")
        assert refused() == []

    def test_a_dagster_yaml_that_can_not_be_read_is_dagsters_to_refuse(
        self, dagster_home: Path, settings: Settings
    ) -> None:
        settings.PROCTREE = {**settings.PROCTREE, "EXECUTOR": "k8s_job"}
        for text in ("run_launcher: [", "- run_launcher", "run_launcher: 3"):
            (dagster_home / "dagster.yaml").write_text(text)
            assert refused() == []

    def test_the_doctor_names_the_trees_and_a_configured_executor(
        self, instance: DagsterInstance, dagster_home: Path, settings: Settings
    ) -> None:
        settings.PROCTREE = {**settings.PROCTREE, "EXECUTOR": f"{__name__}.in_small_pods"}
        ProcessTree.objects.create(name="payroll", processes=[], executor="ecs")
        ProcessTree.objects.create(name="archive", processes=[], executor="ecs")
        ProcessTree.objects.create(name="near", processes=[], executor="in_process")
        found = problems(doctor.check_executors_launcher, Subject(dagster_home, instance))
        assert [finding.level for finding in found] == ["error", "error"]
        of_setting, of_trees = (finding.what for finding in found)
        assert f"'{__name__}.in_small_pods' works with dagster_k8s.K8s" in of_setting
        assert "(DefaultRunLauncher): every run of trees 'archive', 'payroll' fails" in of_trees
