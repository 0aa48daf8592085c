"""Ctrl-C, where tests and benchmarks run in the background of a shell, which has it ignored."""

import signal


def heed_interrupts() -> None:
    """Let this process, and what it starts from now on, heed Ctrl-C.

    Once, and not between the fork and the exec of each child (``preexec_fn``): Python would have to
    call ``fork()``, which gRPC's handlers may hold up for ever.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
