"""The example's two process trees, built and not yet saved.

`python manage.py setup_example` saves them and registers their schedules.
"""

from example.ledger import processes
from proctree_dagster.tree_builder import ProcessTreeInstance


def monthly_close() -> ProcessTreeInstance:
    """Fetch side by side, then one step after the other.

        fetch_journals ────────┐
                               ├─ build_trial_balance ─ build_profit_and_loss ─ publish_statements
        fetch_manual_journals ─┘

    Context: `organisation`, `period_end`.
    """
    return (
        ProcessTreeInstance(
            "monthly_close",
            description="Fetch an organisation's journals and publish its statements for a period.",
            overwrite=True,
        )
        .add_process("fetch_journals", func=processes.fetch_journals)
        .add_process("fetch_manual_journals", func=processes.fetch_manual_journals)
        .add_process(
            "build_trial_balance",
            func=processes.build_trial_balance,
            dependencies=["fetch_journals", "fetch_manual_journals"],
        )
        .add_process(
            "build_profit_and_loss",
            func=processes.build_profit_and_loss,
            dependencies=["build_trial_balance"],
        )
        .add_process(
            "publish_statements",
            func=processes.publish_statements,
            dependencies=["build_trial_balance", "build_profit_and_loss"],
        )
    )


def receivables_reminder() -> ProcessTreeInstance:
    """Fan out from one process to three, and back to one.

                                ┌─ remind_at_30_days ─┐
        list_overdue_invoices ──┼─ remind_at_60_days ─┼── summarise_reminders
                                └─ remind_at_90_days ─┘

    Context: `organisation`, `as_of`.
    """
    return (
        ProcessTreeInstance(
            "receivables_reminder",
            description="Write reminders for an organisation's overdue invoices, by their age.",
            overwrite=True,
        )
        .add_process("list_overdue_invoices", func=processes.list_overdue_invoices)
        .add_process(
            "remind_at_30_days",
            func=processes.remind_at_30_days,
            dependencies=["list_overdue_invoices"],
        )
        .add_process(
            "remind_at_60_days",
            func=processes.remind_at_60_days,
            dependencies=["list_overdue_invoices"],
        )
        .add_process(
            "remind_at_90_days",
            func=processes.remind_at_90_days,
            dependencies=["list_overdue_invoices"],
        )
        .add_process(
            "summarise_reminders",
            func=processes.summarise_reminders,
            dependencies=["remind_at_30_days", "remind_at_60_days", "remind_at_90_days"],
        )
    )
