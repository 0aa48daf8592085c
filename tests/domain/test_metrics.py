"""Metrics as text, and how many labels they have."""

import math

from prometheus_client.parser import text_string_to_metric_families

from proctree_dagster.domain.metrics import OTHERS, Metric, as_text, by_tree

AWKWARD = 'a "tree"\nwith \\ and é'


def test_prometheus_reads_what_is_written() -> None:
    metrics = [
        Metric("proctree_a", "What it\nis: \\ and é.", {AWKWARD: 1.5, "b": 0}),
        Metric("proctree_b", "Another.", {"": 1e12}),
    ]
    a, b = text_string_to_metric_families(as_text(metrics))
    assert (a.name, a.type, a.documentation) == ("proctree_a", "gauge", "What it\nis: \\ and é.")
    assert [(each.labels, each.value) for each in a.samples] == [
        ({"tree": AWKWARD}, 1.5),
        ({"tree": "b"}, 0.0),
    ]
    assert [(each.labels, each.value) for each in b.samples] == [({}, 1e12)]


def test_what_is_no_finite_number_is_written_as_prometheus_does() -> None:
    text = as_text([Metric("x", "x", {"a": math.inf, "b": -math.inf, "c": math.nan})])
    assert [line.split()[-1] for line in text.splitlines()[2:]] == ["+Inf", "-Inf", "NaN"]


def test_trees_without_a_label_of_their_own_have_one_together() -> None:
    values = {"a": 1.0, "c": 3.0, "d": 4.0}
    assert by_tree(values, ["a", "b"]) == {"a": 1.0, "b": 0.0, OTHERS: 7.0}
    assert by_tree(values, ["a", "b"], max, None) == {"a": 1.0, OTHERS: 4.0}
    assert by_tree({}, ["a"]) == {"a": 0.0}
