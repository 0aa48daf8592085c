"""The strip of the last day: a mark for each run, where it belongs."""

import datetime as dt
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from proctree_dagster.domain.day_strip import COLUMN, COLUMNS, HIGHEST, HOURS, arrange

NOW = dt.datetime(2026, 3, 31, 9, 7, tzinfo=dt.UTC)
AGO = st.timedeltas(dt.timedelta(), dt.timedelta(hours=HOURS) - dt.timedelta(microseconds=1))


@given(runs=st.lists(st.tuples(AGO, st.booleans()), max_size=60))
def test_each_run_has_one_mark_or_is_counted_where_it_belongs(
    runs: list[tuple[dt.timedelta, bool]],
) -> None:
    moments = [NOW - ago for ago, _ in runs]
    marks, others = arrange(moments, [urgent for _, urgent in runs], NOW)
    assert len(marks) + sum(each.count for each in others) == len(runs)
    assert len({each.index for each in marks}) == len(marks)
    places = [(each.column, each.level) for each in marks]
    places += [(each.column, each.level) for each in others]
    assert len(set(places)) == len(places)
    for mark in marks:
        left = NOW - (COLUMNS - mark.column) * COLUMN
        assert left < moments[mark.index] <= left + COLUMN
        assert 0 <= mark.level < HIGHEST


@given(runs=st.lists(AGO, max_size=60))
def test_marks_stand_on_each_other_without_gaps(runs: list[dt.timedelta]) -> None:
    marks, others = arrange([NOW - ago for ago in runs], [False] * len(runs), NOW)
    places = [(each.column, each.level) for each in marks]
    places += [(each.column, each.level) for each in others]
    for column, height in Counter(column for column, _level in places).items():
        assert {level for at, level in places if at == column} == set(range(height))


def test_of_more_runs_than_fit_the_failed_ones_are_drawn() -> None:
    count = HIGHEST + 5
    failed = [number == count - 1 for number in range(count)]
    marks, [more] = arrange([NOW] * count, failed, NOW)
    assert marks[0].index == count - 1
    assert (len(marks), more.count, more.level) == (HIGHEST - 1, 6, HIGHEST - 1)


def test_what_is_older_or_in_the_future_is_left_out() -> None:
    moments = [NOW - dt.timedelta(hours=HOURS), NOW + COLUMN]
    assert arrange(moments, [True, True], NOW) == ([], [])
