"""`python manage.py setup_example`: everything that the example needs in its database."""

import datetime

from django.core.management.base import BaseCommand

from example.ledger.sources import load_organisations
from example.ledger.trees import monthly_close, receivables_reminder

# The books that are shipped end here.
CLOSING_DATE = datetime.date(2026, 3, 31)


class Command(BaseCommand):
    """Load the organisations, save the trees, register their schedules. Safe to run again."""

    help = "Load the example's organisations and save its process trees with their schedules."

    def handle(self, *args: object, **options: object) -> None:
        """Set up, and say in a few lines what was done."""
        organisations = load_organisations()
        self.stdout.write(f"Organisations: {', '.join(each.name for each in organisations)}.")
        organisation = organisations[0]

        close = monthly_close()
        close.save()
        close.register_schedule(
            interval_minutes=60,
            start_time=datetime.time(0, 0),
            context={"organisation": organisation, "period_end": CLOSING_DATE},
        )
        close.create_command()
        self.stdout.write(f"monthly_close runs every hour for {organisation.name}.")

        reminder = receivables_reminder()
        reminder.save()
        reminder.register_schedule(
            interval_minutes=1440,
            start_time=datetime.time(7, 30),
            timezone="Africa/Johannesburg",
            context={"organisation": organisation, "as_of": CLOSING_DATE},
        )
        self.stdout.write(f"receivables_reminder runs daily at 07:30 for {organisation.name}.")

        self.stdout.write(self.style.SUCCESS("Run one now: python manage.py monthly_close"))
