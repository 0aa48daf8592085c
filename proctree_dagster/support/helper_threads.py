"""Threads of our own that call users' functions, and must not be seen in what those start."""

import threading
from collections.abc import Callable


class HelperThread(threading.Thread):
    """A daemon thread in which functions start ordinary threads, as in the main thread.

    It does not keep the process from ending. But a thread is a daemon if the one that starts it
    is, so what a function leaves to a thread would be cut off at the process's end if the function
    ran in a daemon thread, and waited for if it ran in the main thread.

    Parameters
    ----------
    target:
        What it calls.
    name:
        Its name.
    """

    def __init__(self, target: Callable[[], object], name: str) -> None:
        self._works = False
        super().__init__(target=target, name=name, daemon=True)

    @property
    def daemon(self) -> bool:
        """Whether threads that are started in it are daemons; it is one itself all the same."""
        return not self._works

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        raise RuntimeError("It is a daemon.")

    def run(self) -> None:
        """Call the target; Python has asked by now whether to wait for it."""
        self._works = True
        super().run()
