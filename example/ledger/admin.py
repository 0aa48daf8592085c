"""The books and statements in the admin."""

from django.contrib import admin

from example.ledger.models import (
    Account,
    JournalLine,
    Organisation,
    ProfitAndLossLine,
    TrialBalanceLine,
)

admin.site.register(Organisation, list_display=["name", "currency"])
admin.site.register(
    Account,
    list_display=["code", "name", "kind", "organisation"],
    list_filter=["organisation", "kind"],
    search_fields=["code", "name"],
)
admin.site.register(
    JournalLine,
    list_display=["date", "reference", "line", "account", "amount", "description", "source"],
    list_filter=["organisation", "source"],
    list_select_related=["account"],
    search_fields=["reference", "description"],
    date_hierarchy="date",
)
admin.site.register(
    TrialBalanceLine,
    list_display=["organisation", "period_end", "account", "debit", "credit"],
    list_filter=["organisation", "period_end"],
    list_select_related=["organisation", "account"],
)
admin.site.register(
    ProfitAndLossLine,
    list_display=["organisation", "period_end", "label", "amount"],
    list_filter=["organisation", "period_end"],
    list_select_related=["organisation"],
)
