"""The console output of a run's process; the log in the UI stays complete."""

import logging
import os
from typing import TYPE_CHECKING

from dagster import colored_console_logger

from ...domain import run_tags
from ..dagster_features import QUIET_CONSOLE, is_on

if TYPE_CHECKING:
    from dagster import InitLoggerContext


def heed_level() -> None:
    """Limit what runs of this process print to the log level that the environment names, if any.

    Dagster prints all of a run's events where nobody configures another logger for the run. Its own
    setting (``python_log_level`` of ``dagster.yaml``) would keep them from the UI, too.
    """
    level = logging.getLevelNamesMapping().get(os.environ.get(run_tags.CONSOLE_LEVEL, ""))
    if level is None or not is_on(QUIET_CONSOLE):
        return
    create = colored_console_logger.logger_fn

    def create_quiet(context: "InitLoggerContext") -> logging.Logger:
        made = create(context)
        made.setLevel(max(level, made.level))
        return made

    colored_console_logger._logger_fn = create_quiet
