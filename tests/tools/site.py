"""The Django site with Dagster's UI behind its login, and people who use it."""

import http.client
import json
import subprocess
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from dagster import DagsterInstance

from tests.tools.stack import Stack, wait_for

PASSWORD = "a long password"

VIEWS = ("view_processtree", "view_processtreeschedule", "view_trigger", "view_run")
DEEDS = ("run_processtree", "retry_run", "cancel_run", "fire_trigger")

PEOPLE = {
    "viewer": ("view_dagster", *VIEWS),
    "operator": ("view_dagster", "operate_dagster", *VIEWS, *DEEDS),
    "administrator": ("view_dagster", "operate_dagster", "administer_dagster", *VIEWS, *DEEDS),
}
"""Staff of the example, and their permissions."""


class SiteStack(Stack):
    """Starts ``proctree web`` for the example, and Dagster's daemon beside it."""

    def start_site(self, *, daemon: bool = True) -> None:
        """Migrate, set the example up, add people, and wait until Dagster is served."""
        self.env["EXAMPLE_DAGSTER_URL"] = ""  # who saves a tree finds the socket in the home
        self.set_up_example()
        self.add_people()
        self.start_web()
        if daemon:
            self.start_daemon()

    def start_web(self) -> subprocess.Popen[bytes]:
        """Start the web process by itself."""
        at = ("--host", "127.0.0.1", "--port", str(self.port), "-v", "0")
        process = self.start_module("django", "proctree", "web", *at)
        wait_for("Dagster to be served", self._is_ready, 120)
        return process

    def _is_ready(self) -> bool:
        for process in self.processes:
            assert process.poll() is None, self.log.read_text()[-3000:]
        return "Dagster's UI is ready" in self.log.read_text()

    def status(self, run_id: str) -> str:
        """Return a run's status, as Dagster's storage has it; blank while there is no such run."""
        with DagsterInstance.from_config(str(self.home)) as instance:
            run = instance.get_run_by_id(run_id)
            return run.status.value if run is not None else ""

    def add_people(self) -> None:
        """Add the people of ``PEOPLE``."""
        self.shell(
            "from django.contrib.auth.models import Permission, User\n"
            f"for name, codenames in {PEOPLE!r}.items():\n"
            f"    user = User.objects.create_user(name, password={PASSWORD!r}, is_staff=True)\n"
            "    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))\n",
            silently=True,
        )

    def person(self, name: str, password: str = PASSWORD) -> "Person":
        """Return somebody who is logged in."""
        person = Person(self.port)
        person.log_in(name, password)
        return person


@dataclass
class Person:
    """Somebody who sends requests, with a session if they are logged in.

    Parameters
    ----------
    port:
        Where the site is served.
    """

    port: int
    path: str = "/dagster"
    """Under which path Dagster is served."""

    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.port}"

    def send(
        self, method: str, path: str, body: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Send a request; return the status and the text of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Host": f"localhost:{self.port}", **(headers or {})}
        if self.cookies:
            given["Cookie"] = "; ".join(f"{key}={value}" for key, value in self.cookies.items())
        connection.request(method, path, body or None, given)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        for header in answer.headers.get_all("Set-Cookie") or ():
            name, _, value = header.partition("=")
            self.cookies[name] = value.partition(";")[0]
        connection.close()
        return answer.status, text

    def log_in(self, name: str, password: str) -> None:
        """Log in to the admin."""
        page = "/admin/login/"
        self.send("GET", page)
        form = {
            "username": name,
            "password": password,
            "csrfmiddlewaretoken": self.cookies["csrftoken"],
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": self.origin}
        status, text = self.send("POST", page, urllib.parse.urlencode(form), headers)
        assert status == 302, text

    def ask(self, query: str, **variables: Any) -> tuple[int, Any]:
        """Send a query to Dagster as its UI does; return the status and the answer."""
        headers = {"Content-Type": "application/json", "Origin": self.origin}
        body = json.dumps({"query": query, "variables": variables})
        status, text = self.send("POST", f"{self.path}/graphql", body, headers)
        return status, json.loads(text)
