"""Whether Dagster's webserver and its code server answer, for a page that must not wait for them.

A thread asks, one at a time; a page gets the last answer, and waits a moment at most for a newer
one. ``manage.py proctree doctor`` asks the same, and waits.
"""

import logging
import os
import threading
import time
from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured

from .. import conf
from ..domain import run_tags
from ..domain.texts import explain
from ..support import isolation
from ..support.helper_threads import HelperThread
from . import webserver

logger = logging.getLogger(__name__)

TIMEOUT = 5.0
"""Seconds after which a webserver that has not answered counts as away."""

ASK_AGAIN_AFTER = 8.0
"""Seconds after which an answer is old enough to ask again."""

WAIT = 0.2
"""Seconds that a page waits for a newer answer."""


@dataclass(frozen=True)
class Answer:
    """What was found out of the webserver."""

    url: str = ""
    """Its address, without user and password; blank: none is known, so nobody was asked."""

    problem: str = ""
    """Why the webserver does not answer; blank if it does."""

    code_server_problem: str = ""
    """Why its code server does not answer; blank if it does, or if the webserver does not."""

    is_pending: bool = False
    """Whether it is being asked for the first time, and has not answered yet."""


class Probe:
    """Asks the webserver, and remembers its last answer."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """Forget what a forked child has not asked itself."""
        self._changed = threading.Condition()
        self._answers: dict[str, tuple[float, Answer]] = {}
        self._asked: set[str] = set()

    def answer(self, url: str, job_name: str | None, wait: float = WAIT) -> Answer:
        """Return the last answer of the webserver at ``url``; ask again if it is old.

        Parameters
        ----------
        url:
            The address of its GraphQL endpoint.
        job_name:
            A job, by which its code server is asked.
        wait:
            Seconds to wait for a newer answer.
        """
        with self._changed:
            if self._is_old(url) and url not in self._asked:
                self._asked.add(url)
                HelperThread(lambda: self._ask(url, job_name), "proctree-dagster-probe").start()
            self._changed.wait_for(lambda: not self._is_old(url), wait)
            pending = Answer(conf.without_login(url), is_pending=True)
            return self._answers.get(url, (0.0, pending))[1]

    def _is_old(self, url: str) -> bool:
        known = self._answers.get(url)
        return known is None or time.monotonic() - known[0] > ASK_AGAIN_AFTER

    def _ask(self, url: str, job_name: str | None) -> None:
        found = Answer(conf.without_login(url), problem="It could not be asked.")
        try:
            found = ask(url, job_name)
        except Exception:  # whatever an address or an answer makes of it: the next page asks again
            logger.exception("Dagster's webserver could not be asked.")
        finally:
            with self._changed:
                self._answers = {url: (time.monotonic(), found)}
                self._asked.discard(url)
                self._changed.notify_all()


_probe = Probe()


def answer(job_name: str | None, wait: float = WAIT) -> Answer:
    """Return whether the project's webserver answers (see ``Probe.answer``); in a test, nothing."""
    try:
        url = None if isolation.is_active() else webserver.graphql_url()
    except ImproperlyConfigured as error:
        return Answer("PROCTREE", problem=str(error))
    return Answer() if url is None else _probe.answer(url, job_name, wait)


def ask(url: str, job_name: str | None) -> Answer:
    """Ask a webserver, and wait for its answer.

    Parameters
    ----------
    url, job_name:
        As for ``Probe.answer``.
    """
    shown = conf.without_login(url)
    try:
        locations = webserver.code_locations(url, timeout=TIMEOUT)
        problem = locations.get(run_tags.LOCATION)
        if problem is None:
            problem = f"The webserver serves no code location {run_tags.LOCATION!r}."
        problem = problem or webserver.code_server_problem(url, job_name, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        return Answer(shown, problem=explain(error))
    return Answer(shown, code_server_problem=problem or "")
