"""The health of what runs the trees, for probes."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from ...services import health, silence
from .base import Action


class Health(Action):
    """Checks whether trees are run, with an exit code."""

    name = "health"
    help = (
        "Say whether trees are run: the database, the daemon's last pass, overdue schedules, the "
        "outbox, alerts that could not be delivered, the disk of Dagster's home. It asks Django's "
        "database, so it is quick. Exits with 1 if something is wrong. If no daemon makes its "
        "passes, it sends the alert of that."
    )
    has_json = True

    def handle(self, options: Mapping[str, Any]) -> None:
        """Check it."""
        now = timezone.now()
        checks = health.examine(now)
        style = self.out.style
        for each in checks:
            word = style.SUCCESS("OK") if each.ok else style.ERROR("WRONG")
            self.out.line(f"{word}  {each.name}: {each.message}")
        wrong = [each.name for each in checks if not each.ok]
        self.out.document({"ok": not wrong, "checks": [asdict(each) for each in checks]})
        if "daemon" in wrong and "database" not in wrong:
            silence.deliver(now)
        if wrong:
            raise CommandError(f"Wrong: {', '.join(wrong)}.")
