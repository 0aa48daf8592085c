"""Searches for garbage are left out while Dagster is imported, and go on after it."""

import gc
import os
import threading
from contextlib import suppress

from proctree_dagster.support import garbage


def test_none_is_made_meanwhile_and_they_go_on_after_an_error() -> None:
    with suppress(ImportError), garbage.not_collected():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_who_has_switched_them_off_finds_them_off() -> None:
    gc.disable()
    try:
        with garbage.not_collected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_of_two_threads_the_last_switches_them_on_again() -> None:
    inside, may_end = threading.Event(), threading.Event()

    def work() -> None:
        with garbage.not_collected():
            inside.set()
            may_end.wait(30)

    other = threading.Thread(target=work)
    with garbage.not_collected():
        other.start()
        assert inside.wait(30)
    assert not gc.isenabled(), "the other one still imports"
    may_end.set()
    other.join(30)
    assert gc.isenabled()


def test_a_child_that_is_forked_meanwhile_collects_its_garbage() -> None:
    with garbage.not_collected():
        child = os.fork()
        if child == 0:
            is_on = gc.isenabled()
            with garbage.not_collected():
                is_off = not gc.isenabled()
            os._exit(0 if is_on and is_off and gc.isenabled() else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
