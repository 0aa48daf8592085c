"""Links: which trees follow which others."""

from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connections, models, router, transaction
from django.db.models import F, Q
from django.db.models.signals import pre_save
from django.dispatch import receiver
from django.utils.translation import gettext_lazy as _

from ..domain import families
from ..exceptions import InvalidTree
from .primary import PrimaryModel, PrimaryQuerySet
from .trees import LinkKind, ProcessTree


class TreeLinkQuerySet(PrimaryQuerySet["TreeLink"]):
    """Links; every method that writes them refuses circles."""

    def reachable_from(self, trees: Iterable[int]) -> list[families.Link]:
        """Return the links that can be reached from some trees.

        It makes one query for each level.

        Parameters
        ----------
        trees:
            Primary keys.
        """
        found: list[families.Link] = []
        seen: set[int] = set()
        ahead = set(trees)
        while ahead:
            seen |= ahead
            rows = self.filter(source_id__in=ahead).order_by("pk")
            links = [
                families.Link(source, target, "sibling" if kind == "sibling" else "dependent")
                for source, target, kind in rows.values_list("source_id", "target_id", "kind")
            ]
            found += links
            ahead = {link.target for link in links} - seen
        return found

    def circle_made_by(self, links: Iterable["TreeLink"]) -> str | None:
        """Return the circle that some links, saved or not, would close; ``None`` if none."""
        given = list(links)
        others = self.exclude(pk__in=[link.pk for link in given if link.pk is not None])
        new = [families.Link(link.source_id, link.target_id, "dependent") for link in given]
        found = families.circle(new + others.reachable_from({link.target for link in new}))
        if found is None:
            return None
        trees = ProcessTree.objects.using(self.db).filter(pk__in=found)
        names = dict(trees.values_list("pk", "name"))
        path = " → ".join(repr(names.get(pk, pk)) for pk in found)
        return f"The trees would follow one another in a circle: {path}."

    def refuse_circles(self, links: Iterable["TreeLink"]) -> None:
        """Refuse links that would close a circle. Call it in the transaction that writes them.

        It takes a lock until the end of that transaction, so that two processes can't each write
        half of a circle at the same time.

        Raises
        ------
        InvalidTree
            It names the circle.
        """
        given = list(links)
        self.lock()
        problem = self.circle_made_by(given)
        if problem is not None:
            source = ProcessTree.objects.using(self.db).get(pk=given[0].source_id)
            raise InvalidTree(source.name, [problem])

    def lock(self) -> None:
        """Take the lock on writing links, until the end of the transaction."""
        # One row is the lock; an update locks it on every database, SQLite included.
        trees = ProcessTree.objects.using(self.db)
        lowest: Any = trees.order_by("pk").values_list("pk", flat=True)[:1]
        if not connections[self.db].features.allow_sliced_subqueries_with_in:  # MySQL
            lowest = list(lowest)
        trees.filter(pk__in=lowest).update(cache_enabled=F("cache_enabled"))

    def bulk_create(self, objs: Iterable["TreeLink"], *args: Any, **kwargs: Any) -> Any:
        """Save several links; refuse those that make a circle."""
        links = list(objs)
        # Compared without their keys, as a conflict may leave the saved links as they are.
        new = [TreeLink(source_id=link.source_id, target_id=link.target_id) for link in links]
        with transaction.atomic(using=self.db):
            self.using(self.db).refuse_circles(new)
            return super().bulk_create(links, *args, **kwargs)

    def update(self, **kwargs: Any) -> int:
        """Update rows, but not where a link leads.

        Raises
        ------
        TypeError
            It would change the ends of links.
        """
        if not {"source", "source_id", "target", "target_id"}.isdisjoint(kwargs):
            raise TypeError("The ends of a link can't be updated: delete it, and save another.")
        return super().update(**kwargs)


class TreeLinkManager(models.Manager.from_queryset(TreeLinkQuerySet)):  # type: ignore[misc]
    """Loads the target's name with each link, as nearly every caller needs it."""

    def get_queryset(self) -> TreeLinkQuerySet:
        """Return the links with their targets' names."""
        links: TreeLinkQuerySet = super().get_queryset()
        named = links.select_related("target")
        return named.only("source", "target", "kind", "target__name", "target__job_name")


class TreeLink(PrimaryModel):
    """One tree follows another."""

    source = models.ForeignKey(
        ProcessTree,
        on_delete=models.CASCADE,
        related_name="links_out",
        verbose_name=_("process tree"),
    )
    target = models.ForeignKey(
        ProcessTree,
        on_delete=models.CASCADE,
        related_name="links_in",
        verbose_name=_("tree that follows"),
    )
    kind = models.CharField(
        _("kind"), max_length=10, choices=LinkKind.choices, default=LinkKind.DEPENDENT
    )

    objects: TreeLinkManager = TreeLinkManager()
    plain = TreeLinkQuerySet.as_manager()

    class Meta:
        # Django's own writes, such as ``links_out.add()``, must not bypass the checks. It is not
        # ``objects``, whose joins prevent loading single fields.
        base_manager_name = "plain"
        verbose_name = _("link between trees")
        verbose_name_plural = _("links between trees")
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["source", "target"],
                name="proctree_link_unique",
                violation_error_message=_("A tree follows another in one way only."),
            ),
            models.CheckConstraint(
                condition=~Q(source=F("target")),
                name="proctree_link_not_to_itself",
                violation_error_message=_("A tree can't follow itself."),
            ),
        ]

    def __str__(self) -> str:
        how = "after" if self.kind == LinkKind.DEPENDENT else "beside"
        return f"{self.target} {how} {self.source}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the link; refuse one that makes a circle (``InvalidTree``)."""
        using = kwargs.get("using") or router.db_for_write(TreeLink, instance=self)
        with transaction.atomic(using=using):
            TreeLink.objects.using(using).refuse_circles([self])
            super().save(*args, **kwargs)

    def clean(self) -> None:
        """Refuse a link that makes a circle, in a form."""
        super().clean()
        if self.source_id is None or self.target_id is None:
            return  # a field's problem, or a tree that is not saved yet: nothing leads to it
        problem = TreeLink.objects.circle_made_by([self]) or self.target.unattended_problem()
        if problem is not None:
            raise ValidationError(problem)

    @staticmethod
    def read_for(trees: Iterable[ProcessTree]) -> None:
        """Prefetch the links of most or all trees: one query that lists no keys."""
        by_source: dict[int, list[TreeLink]] = {}
        for link in TreeLink.objects.all():
            by_source.setdefault(link.source_id, []).append(link)
        for tree in trees:
            tree.known_links = by_source.get(tree.pk, [])


@receiver(pre_save, sender=TreeLink, dispatch_uid="proctree_dagster.services.tree_links")
def _check_fixture(
    sender: type[Any], instance: TreeLink, raw: bool, using: str, **kwargs: Any
) -> None:
    """Refuse circles in fixtures, too, which bypass ``save()``."""
    if raw:
        TreeLink.objects.using(using).refuse_circles([instance])
