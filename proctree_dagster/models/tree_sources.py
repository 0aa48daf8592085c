"""Where trees are declared in code, and what the code said of them at the last sync."""

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from ..domain.names import MAX_NAME_LENGTH
from ..domain.tree_descriptions import OPERATORS_OWN, Path, TreeDescription
from .fields import RowField
from .primary import PrimaryManager, PrimaryModel
from .trees import ProcessTree


class TreeSource(PrimaryModel):
    """A tree that a function of an app's ``trees`` module declares (see ``tree_builder.sync``)."""

    process_tree = models.OneToOneField(
        ProcessTree, on_delete=models.CASCADE, related_name="source", verbose_name=_("process tree")
    )
    app_label = models.CharField(_("app"), max_length=MAX_NAME_LENGTH)
    function = models.CharField(
        _("function"), max_length=500, help_text=_("The function that declares it.")
    )
    said = RowField(
        _("as the code said"), default=dict, help_text=_("What the code said at the last sync.")
    )
    operators_own = models.JSONField(
        _("operators own"),
        default=list,
        help_text=_("The options that a sync leaves to operators."),
    )
    kept = models.JSONField(
        _("kept"),
        default=dict,
        help_text=_("What somebody has kept as the rows say: who and when, by its place."),
    )
    removed_parts = models.JSONField(
        _("removed parts"),
        default=list,
        help_text=_("Schedules, subscriptions and triggers that the code does not say any more."),
    )
    synced_at = models.DateTimeField(_("synced at"))
    removed_at = models.DateTimeField(
        _("removed at"),
        null=True,
        blank=True,
        help_text=_("When a sync did not find it in the code any more."),
    )
    pruned_at = models.DateTimeField(
        _("pruned at"),
        null=True,
        blank=True,
        help_text=_("When it was switched off, as it is not in the code any more."),
    )

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()
        verbose_name = _("declaration of a process tree")
        verbose_name_plural = _("declarations of process trees")
        ordering = ["process_tree__name"]

    def __str__(self) -> str:
        return f"{self.process_tree}: {self.function}"

    @property
    def description(self) -> TreeDescription:
        """What the code said at the last sync."""
        return TreeDescription.from_dict(self.said if isinstance(self.said, dict) else {})

    @property
    def owned(self) -> tuple[str, ...]:
        """The options that operators own."""
        owned = self.operators_own
        return tuple(map(str, owned)) if isinstance(owned, list) else OPERATORS_OWN

    @property
    def kept_paths(self) -> set[Path]:
        """The places that somebody has kept as the rows say."""
        return {tuple(place.split(SEPARATOR)) for place in self.kept_notes}

    @property
    def kept_notes(self) -> dict[str, Any]:
        """Who has kept what, and when, by its place."""
        return self.kept if isinstance(self.kept, dict) else {}


SEPARATOR = "\x1f"
"""Between the parts of a place: no name of a schedule or a trigger has a control character."""


def place_of(path: Path) -> str:
    """Return a place as one text, as ``TreeSource.kept`` holds it."""
    return SEPARATOR.join(path)


class CodeSync(PrimaryModel):
    """The last sync with the code; its only row is the lock on which syncs wait for each other."""

    release = models.BigIntegerField(
        _("release"),
        null=True,
        blank=True,
        help_text=_("PROCTREE['RELEASE'] of the newest code that was synced."),
    )
    synced_at = models.DateTimeField(_("synced at"), null=True, blank=True)

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()
        verbose_name = _("sync with the code")
        verbose_name_plural = _("syncs with the code")

    def __str__(self) -> str:
        return f"{self.synced_at}"
