"""`manage.py setup_example` schedules both firms with one schedule for each tree."""

import datetime as dt

import pytest
from django.core.management import call_command
from django.utils import timezone

from example.ledger.management.commands import setup_example
from example.ledger.models import Organisation
from proctree_dagster.models import ProcessTreeSchedule
from proctree_dagster.tasks import check_and_run_scheduled_tasks
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager

pytestmark = pytest.mark.django_db

MARCH = dt.date(2026, 3, 31)
PROFITS = {"Quiver Tree Coffee": "10965.41", "Harbour Lane Design": "5860.79"}


@pytest.fixture(autouse=True)
def set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # It would write a file into the checkout, and make a user for the example's own database.
    monkeypatch.setattr(ProcessTreeInstance, "create_command", lambda self: None)
    monkeypatch.setattr(setup_example, "make_demo_user", lambda: "")
    call_command("setup_example", verbosity=0)


def profits() -> dict[str, str]:
    """Return the profits that were written, by organisation."""
    lines = {
        organisation.name: organisation.profit_and_loss_lines.filter(
            period_end=MARCH, label="Profit"
        ).values_list("amount", flat=True)
        for organisation in Organisation.objects.all()
    }
    return {name: str(amount) for name, [amount] in lines.items()}


def test_when_it_is_due_each_tree_runs_for_every_organisation() -> None:
    ProcessTreeSchedule.objects.update(next_run=timezone.now() - dt.timedelta(minutes=1))
    outcomes = check_and_run_scheduled_tasks()
    rows = {f"ledger.Organisation:{each.pk}" for each in Organisation.objects.all()}
    assert len(rows) == 2
    for name in ("monthly_close", "receivables_reminder"):
        assert set(outcomes[name]["results"]) == rows
        assert outcomes[name]["success"], outcomes[name]["errors"]
    assert profits() == PROFITS


def test_setting_it_up_again_leaves_one_schedule_for_each_tree() -> None:
    call_command("setup_example", verbosity=0)
    schedules = ProcessTreeSchedule.objects.order_by("process_tree__name")
    assert [each.process_tree.name for each in schedules] == [
        "monthly_close",
        "receivables_reminder",
    ]
    assert {each.for_each["model"] for each in schedules} == {"ledger.Organisation"}


def test_what_a_person_starts_closes_the_books_of_the_organisation_of_the_context() -> None:
    results = ProcessTreeManager.execute_tree("monthly_close")
    published = results["results"]["publish_statements"]
    assert str(published["profit"]) == PROFITS["Quiver Tree Coffee"]
