"""`python manage.py setup_example`: everything that the example needs in its database."""

import datetime

from django.core.management.base import BaseCommand
from django.utils.timezone import localtime

from example.demo_user import make_demo_user
from example.ledger.models import Organisation
from example.ledger.sources import load_organisations
from example.ledger.trees import monthly_close, receivables_reminder
from proctree_dagster.models import ProcessTreeSchedule

# The books that are shipped end here.
CLOSING_DATE = datetime.date(2026, 3, 31)


class Command(BaseCommand):
    """Load the organisations, save the trees, register their schedules. May be run again."""

    help = (
        "Load the example's organisations, save its process trees with their schedules, and make "
        "the admin's demo user."
    )

    def handle(self, *args: object, **options: object) -> None:
        """Set up, and say in a few lines what was done."""
        organisations = load_organisations()
        self.stdout.write(f"Organisations: {', '.join(each.name for each in organisations)}.")
        # One schedule, and at each due time a run for each organisation. The one that the context
        # names is for runs that a person starts and changes nothing of.
        by_hand = organisations[0]

        close = monthly_close()
        close.save()
        schedule = close.register_schedule(
            interval_minutes=60,
            start_time=datetime.time(0, 0),
            for_each=Organisation,
            context={"organisation": by_hand, "period_end": CLOSING_DATE},
        )
        close.create_command()
        self._say("monthly_close runs every hour", schedule)

        reminder = receivables_reminder()
        reminder.save()
        schedule = reminder.register_schedule(
            interval_minutes=1440,
            start_time=datetime.time(7, 30),
            timezone="Africa/Johannesburg",
            for_each=Organisation,
            context={"organisation": by_hand, "as_of": CLOSING_DATE},
        )
        self._say("receivables_reminder runs daily at 07:30", schedule)
        self.stdout.write(make_demo_user())

    def _say(self, what: str, schedule: ProcessTreeSchedule) -> None:
        when = "" if schedule.next_run is None else f", next at {localtime(schedule.next_run):%c}"
        self.stdout.write(f"{what} for each organisation{when}.")
