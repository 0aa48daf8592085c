"""Links between trees: written by name, shown everywhere, never in a circle."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, connections, transaction
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from proctree_dagster.exceptions import InvalidTree, ProctreeError
from proctree_dagster.models import LinkKind, ProcessTree, TreeLink
from proctree_dagster.orchestration.translator import ProcessTreeTranslator
from proctree_dagster.orchestration.tree_records import from_row
from proctree_dagster.services import tree_links
from proctree_dagster.tree_builder import ProcessTreeBuilder, ProcessTreeInstance
from tests.app import processes

pytestmark = pytest.mark.django_db

CIRCLE = "The trees would follow one another in a circle: 'b' → 'a' → 'b'."


def save(name: str) -> ProcessTree:
    return ProcessTreeInstance(name).add_process("one", func=processes.one).save()


@pytest.fixture
def a() -> ProcessTree:
    return save("a")


@pytest.fixture
def b() -> ProcessTree:
    return save("b")


def ends() -> list[tuple[str, str, str]]:
    return list(TreeLink.objects.values_list("source__name", "target__name", "kind"))


class TestWriting:
    def test_links_are_saved_with_the_tree_and_come_back(
        self, a: ProcessTree, b: ProcessTree
    ) -> None:
        tree = ProcessTreeInstance("first").add_process("one", func=processes.one)
        tree.add_dependent_tree("b").add_sibling_tree("a").save()
        assert ends() == [("first", "b", "dependent"), ("first", "a", "sibling")]
        loaded = ProcessTreeInstance.load("first")
        assert loaded.to_dict() == tree.to_dict()
        assert loaded.to_dict()["dependent_trees"] == ["b"]
        assert loaded.to_dict()["sibling_trees"] == ["a"]
        loaded.remove_dependent_tree("b").save()
        assert ends() == [("first", "a", "sibling")]
        loaded.remove_sibling_tree("a").add_dependent_tree("a").save()
        assert ends() == [("first", "a", "dependent")]

    def test_they_are_part_of_the_revision_and_a_tree_without_keeps_its_own(
        self, a: ProcessTree, b: ProcessTree
    ) -> None:
        before = a.revision
        assert "dependent_trees" not in a.to_dict()
        ProcessTreeInstance.load("a").add_dependent_tree("b").save()
        after = ProcessTree.objects.get(name="a")
        assert after.revision != before
        spec = from_row(after).spec
        assert spec is not None
        assert spec.to_dict() == after.to_dict()

    def test_a_tree_that_is_written_anew_says_all_that_follows_it(
        self, a: ProcessTree, b: ProcessTree
    ) -> None:
        ProcessTreeInstance.load("a").add_dependent_tree("b").save()
        ProcessTreeInstance("a", overwrite=True).add_process("one", func=processes.one).save()
        assert ends() == []

    def test_every_problem_is_reported_at_once_and_nothing_is_saved(self, a: ProcessTree) -> None:
        tree = ProcessTreeInstance("first").add_process("one", func="no.such:function")
        tree.add_dependent_tree("gone").add_sibling_tree("lost").add_dependent_tree("first")
        tree.add_dependent_tree("a").add_sibling_tree("a")
        with pytest.raises(InvalidTree) as error:
            tree.save()
        told = str(error.value)
        for said in (
            "no process tree called 'gone'",
            "no process tree called 'lost'",
            "can't follow itself",
            "'a' is to run after this one and at the same time",
            "no.such",
        ):
            assert said in told
        assert not ProcessTree.objects.filter(name="first").exists()

    def test_what_is_removed_must_be_there(self, a: ProcessTree) -> None:
        tree = ProcessTreeBuilder("first").add("one", processes.one).add_sibling_tree("a").build()
        with pytest.raises(ProctreeError, match="no sibling tree 'b'; it has 'a'"):
            tree.remove_sibling_tree("b")
        with pytest.raises(ProctreeError, match="no dependent tree 'a'; it has none"):
            tree.remove_dependent_tree("a")

    def test_a_job_shows_what_follows_it(self, a: ProcessTree, b: ProcessTree) -> None:
        ProcessTreeInstance.load("a").add_dependent_tree("b").set_description("Closes.").save()
        job = ProcessTreeTranslator().job(from_row(ProcessTree.objects.get(name="a")))
        assert job.description == "Closes.\n\nThen: b"
        assert job.metadata["proctree/dependent_trees"].value == ["b"]

    def test_the_links_of_many_trees_are_read_with_one_query(
        self, a: ProcessTree, b: ProcessTree, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        ProcessTreeInstance.load("a").add_dependent_tree("b").save()
        rows = list(ProcessTree.objects.order_by("name"))
        with django_assert_num_queries(1):
            TreeLink.read_for(rows)
            assert [row.linked_trees() for row in rows] == [{"dependent_trees": ["b"]}, {}]

    def test_a_deleted_tree_takes_its_links_along(self, a: ProcessTree, b: ProcessTree) -> None:
        ProcessTreeInstance.load("a").add_dependent_tree("b").save()
        b.delete()
        assert "dependent_trees" not in ProcessTree.objects.get(name="a").to_dict()


class TestCircles:
    @pytest.fixture(autouse=True)
    def half(self, a: ProcessTree, b: ProcessTree) -> None:
        """Half of a circle."""
        TreeLink.objects.create(source=a, target=b, kind=LinkKind.SIBLING)

    def test_the_builder_refuses_one(self) -> None:
        tree = ProcessTreeInstance.load("b").add_dependent_tree("a")
        with pytest.raises(InvalidTree, match=r"in a circle: 'a' → 'b' → 'a'|'b' → 'a' → 'b'"):
            tree.save()
        assert len(ends()) == 1

    def test_the_model_refuses_one(self, a: ProcessTree, b: ProcessTree) -> None:
        with pytest.raises(InvalidTree, match="in a circle"):
            TreeLink.objects.create(source=b, target=a)
        with pytest.raises(InvalidTree, match="in a circle"):
            TreeLink(source=a, target=a).save()
        link = TreeLink.objects.create(source=b, target=save("c"))
        link.target = a
        with pytest.raises(InvalidTree, match="in a circle"):
            link.save()

    def test_a_link_that_is_turned_round_is_no_circle(self, a: ProcessTree, b: ProcessTree) -> None:
        link = TreeLink.objects.get()
        link.source, link.target = b, a
        link.save()
        assert [each[:2] for each in ends()] == [("b", "a")]

    def test_several_at_once_are_refused_together(self, a: ProcessTree, b: ProcessTree) -> None:
        c, d = save("c"), save("d")
        with pytest.raises(InvalidTree, match="in a circle"):
            TreeLink.objects.bulk_create(
                [TreeLink(source=b, target=c), TreeLink(source=c, target=a)]
            )
        with pytest.raises(InvalidTree, match="in a circle"):
            TreeLink.objects.bulk_create(
                [TreeLink(source=c, target=d), TreeLink(source=d, target=c)]
            )
        assert len(ends()) == 1

    def test_an_update_changes_no_ends(self, a: ProcessTree, b: ProcessTree) -> None:
        with pytest.raises(TypeError, match="delete it, and save another"):
            TreeLink.objects.update(source=b, target=a)
        link = TreeLink.objects.get()
        link.source, link.target = b, a
        with pytest.raises(TypeError, match="delete it, and save another"):
            TreeLink.objects.bulk_update([link], ["source", "target"])

    @pytest.mark.parametrize("attribute", ["links_out", "links_in"])
    def test_nor_does_a_tree_that_takes_a_link_over(
        self, a: ProcessTree, b: ProcessTree, attribute: str
    ) -> None:
        c = save("c")
        tree, source, target = {"links_out": (b, c, a), "links_in": (a, b, c)}[attribute]
        link = TreeLink.objects.create(source=source, target=target)
        before = ends()
        with pytest.raises(TypeError, match="delete it, and save another"), transaction.atomic():
            getattr(tree, attribute).add(link)
        with pytest.raises(TypeError, match="delete it, and save another"), transaction.atomic():
            getattr(tree, attribute).set([link])
        with pytest.raises(InvalidTree, match="in a circle"), transaction.atomic():
            getattr(tree, attribute).add(link, bulk=False)
        assert ends() == before

    def test_what_moves_a_link_in_other_ways_makes_none(
        self, a: ProcessTree, b: ProcessTree
    ) -> None:
        c = save("c")
        link = TreeLink.objects.create(source=c, target=a)
        before = ends()
        with pytest.raises(InvalidTree, match="in a circle"):
            TreeLink.objects.update_or_create(pk=link.pk, defaults={"source": b})
        with pytest.raises(InvalidTree, match="in a circle"):
            TreeLink.objects.bulk_create(
                [TreeLink(pk=link.pk, source=b, target=a)],
                update_conflicts=True,
                unique_fields=["id"],
                update_fields=["source"],
            )
        assert ends() == before

    @pytest.mark.parametrize(
        "on_conflict",
        [
            {"ignore_conflicts": True},
            {"update_conflicts": True, "unique_fields": ["id"], "update_fields": ["kind"]},
        ],
    )
    def test_a_link_that_stays_where_it_is_counts(
        self, b: ProcessTree, on_conflict: dict[str, Any]
    ) -> None:
        c, d = save("c"), save("d")
        link = TreeLink.objects.create(source=b, target=c)
        before = ends()
        with pytest.raises(InvalidTree, match="in a circle"):
            TreeLink.objects.bulk_create(
                [TreeLink(pk=link.pk, source=d, target=c), TreeLink(source=c, target=b)],
                **on_conflict,
            )
        assert ends() == before

    def test_single_fields_of_a_link_can_be_loaded(self) -> None:
        link = TreeLink.objects.get()
        TreeLink.objects.update(kind=LinkKind.DEPENDENT)
        link.refresh_from_db(fields=["kind"])
        assert link.kind == "dependent"
        assert TreeLink.plain.only("source").get().kind == "dependent"

    def test_an_update_may_change_the_kind(self) -> None:
        TreeLink.objects.update(kind=LinkKind.DEPENDENT)
        assert ends() == [("a", "b", "dependent")]

    def test_a_fixture_with_one_is_refused(
        self, a: ProcessTree, b: ProcessTree, tmp_path: Path
    ) -> None:
        fields = {"source": b.pk, "target": a.pk, "kind": "dependent"}
        row = {"model": "proctree_dagster.treelink", "pk": 99, "fields": fields}
        (tmp_path / "links.json").write_text(json.dumps([row]))
        with pytest.raises(InvalidTree, match="in a circle"):
            call_command("loaddata", str(tmp_path / "links.json"), verbosity=0)

    def test_a_form_says_so(self, a: ProcessTree, b: ProcessTree) -> None:
        with pytest.raises(ValidationError, match="in a circle"):
            TreeLink(source=b, target=a).full_clean()

    def test_the_admin_says_so_and_saves_nothing(
        self, admin_client: Client, a: ProcessTree, b: ProcessTree
    ) -> None:
        def post(target: ProcessTree) -> Any:
            form = {
                **{"name": "b", "description": "", "cache_enabled": "on"},
                "processes": json.dumps(b.processes),
                **{"schedule-TOTAL_FORMS": 0, "schedule-INITIAL_FORMS": 0},
                **{"links_out-TOTAL_FORMS": 1, "links_out-INITIAL_FORMS": 0},
                **{"links_out-0-target": target.pk, "links_out-0-kind": "dependent"},
            }
            return admin_client.post(f"/admin/proctree_dagster/processtree/{b.pk}/change/", form)

        for target in (a, b):
            answer = post(target)
            assert answer.status_code == 200
            assert "in a circle" in answer.content.decode()
        assert len(ends()) == 1
        assert post(save("c")).status_code == 302
        assert ("b", "c", "dependent") in ends()

    def test_sql_can_make_one_and_it_ends_where_it_began(
        self, a: ProcessTree, b: ProcessTree
    ) -> None:
        insert_in_sql(b, a)
        plan = tree_links.plan_family(a, "7c0a1f8e-52c2-4f0c-9c1e-4d8f5a3b2e10")
        assert [run.tree.name for run in plan.runs] == ["b"]
        assert "'a' does not run again after 'b'" in plan.problems[0]
        assert from_row(ProcessTree.objects.get(name="a")).problem is None

    def test_not_even_sql_links_a_tree_to_itself_or_twice(
        self, a: ProcessTree, b: ProcessTree
    ) -> None:
        for source, target in [(a, a), (a, b)]:
            with pytest.raises(IntegrityError), transaction.atomic():
                insert_in_sql(source, target)


def insert_in_sql(source: ProcessTree, target: ProcessTree) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "INSERT INTO proctree_dagster_treelink (source_id, target_id, kind) "
            "VALUES (%s, %s, 'dependent')",
            [source.pk, target.pk],
        )
