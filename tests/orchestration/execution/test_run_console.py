"""What a run's process prints of its log, under ``proctree dev``."""

import pytest
from dagster import DagsterInstance, OpExecutionContext, colored_console_logger, job, op

from proctree_dagster.domain import run_tags
from proctree_dagster.orchestration.execution import run_console


@op
def speak(context: OpExecutionContext) -> None:
    context.log.info("a detail")
    context.log.warning("a warning")


@job
def speech() -> None:
    speak()


@pytest.mark.parametrize(
    ("level", "printed"),
    [
        ("", {"STEP_START", "a detail", "a warning"}),
        ("INFO", {"a detail", "a warning"}),
        ("WARNING", {"a warning"}),
        ("nonsense", {"STEP_START", "a detail", "a warning"}),
    ],
)
def test_lines_below_the_level_are_not_printed_and_are_in_the_runs_log(
    level: str,
    printed: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(colored_console_logger, "_logger_fn", colored_console_logger.logger_fn)
    monkeypatch.setenv(run_tags.CONSOLE_LEVEL, level)
    run_console.heed_level()
    # It captures no output of steps: that comes here by way of another process, sometimes too late.
    with DagsterInstance.ephemeral() as instance:
        result = speech.execute_in_process(instance=instance)
        said = capfd.readouterr().err
        logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    everything = {"STEP_START", "a detail", "a warning"}
    assert {each for each in everything if each in said} == printed
    assert {"a detail", "a warning"} <= set(logged)
    assert any("Started execution of step" in line for line in logged)
