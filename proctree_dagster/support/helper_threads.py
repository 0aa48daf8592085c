"""Our daemon threads that call users' functions, whose own threads must not become daemons."""

import threading
from collections.abc import Callable


class HelperThread(threading.Thread):
    """A daemon thread in which functions start ordinary threads, as in the main thread.

    It does not keep the process alive. But threads inherit ``daemon``, so a thread that a function
    starts would be cut off at the process's end if the function ran in an ordinary daemon thread,
    and waited for if it ran in the main thread.

    Parameters
    ----------
    target:
        The function.
    name:
        Its name.
    """

    def __init__(self, target: Callable[[], object], name: str) -> None:
        self._works = False
        super().__init__(target=target, name=name, daemon=True)

    @property
    def daemon(self) -> bool:
        """Whether threads started in it are daemons: not while it runs, though it is one itself."""
        return not self._works

    @daemon.setter
    def daemon(self, daemonic: bool) -> None:
        raise RuntimeError("It is a daemon.")

    def run(self) -> None:
        """Call the target; by now Python has read that it need not wait for this thread."""
        self._works = True
        super().run()
