"""What pauses do to due times, against a walk that asks of each due time alone."""

import datetime as dt
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from proctree_dagster.domain.pauses import Span, first_not_dropped

START = dt.datetime(2026, 6, 10, tzinfo=dt.UTC)


def at(minute: int) -> dt.datetime:
    return START + dt.timedelta(minutes=minute)


def due_after(interval: int, moment: dt.datetime) -> dt.datetime:
    minutes = (moment - START) // dt.timedelta(minutes=1)
    return at((minutes // interval + 1) * interval)


@st.composite
def spans(draw: st.DrawFn) -> Span:
    since = draw(st.integers(-60, 300))
    until = draw(st.none() | st.integers(since + 1, since + 200))
    return Span(at(since), None if until is None else at(until), draw(st.booleans()))


def each_alone(due: dt.datetime, found: list[Span], now: dt.datetime, interval: int) -> dt.datetime:
    """Return the first due time that is not dropped, by asking of each in turn."""

    def walk() -> Iterator[dt.datetime]:
        moment = due
        while True:
            yield moment
            moment = due_after(interval, moment)

    dropped = (any(each.drops and each.covers(moment) for each in found) for moment in walk())
    return next(
        moment
        for moment, is_dropped in zip(walk(), dropped, strict=True)
        if moment > now or not is_dropped
    )


@given(
    first=st.integers(0, 200),
    found=st.lists(spans(), max_size=4),
    now=st.integers(0, 300),
    interval=st.sampled_from([1, 7, 30, 60]),
)
def test_what_is_dropped_is_what_each_due_time_alone_would_be(
    first: int, found: list[Span], now: int, interval: int
) -> None:
    due = at(first * interval)
    left = first_not_dropped(due, found, at(now), lambda moment: due_after(interval, moment))
    assert left == each_alone(due, found, at(now), interval)


def test_a_pause_holds_from_its_first_moment_on_until_just_before_its_last() -> None:
    span = Span(at(0), at(60), drops=False)
    assert span.covers(at(0))
    assert not span.covers(at(60))
    assert not span.covers(at(-1))
    assert Span(at(0), None, drops=True).covers(at(10**6))
