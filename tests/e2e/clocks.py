"""A clock that a test can set, for a whole stack: Debian's libfaketime under every process."""

import datetime as dt
from pathlib import Path

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
"""Its file; ``None`` if it is not installed."""

# libfaketime 0.9.10 breaks the one call that Python's sleep makes. And it puts the name of its
# shared memory into the environment of each process, which would then differ from that of the
# others: no run would be forked from a template.
SITE = """
import gc, os, threading, time

os.environ.pop("FAKETIME_SHARED", None)
gc.set_threshold(50_000)  # see tests/tools/startup, in the place of which this is read

def sleep(seconds):
    threading.Event().wait(seconds)

time.sleep = sleep
"""


class Clock:
    """What time the processes think it is. It runs on as ever; timeouts are not concerned."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        (folder / "sitecustomize.py").write_text(SITE)
        self.set(dt.datetime.now(dt.UTC))
        self.env = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_NO_CACHE": "1",
            "DAEMON_IS_WATCHFUL": "1",
        }

    def set(self, moment: dt.datetime) -> None:
        """Set the clock, at once and for all."""
        ahead = (moment - dt.datetime.now(dt.UTC)).total_seconds()
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead:+f}\n")
        new.replace(self._file)
