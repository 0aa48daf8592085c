import os
import time
from pathlib import Path

FOLDER = Path(__file__).parent
COUNT = int(os.environ["TEST_COUNT"])


def fail():
    """Fail when all have begun: then they all end at the same moment."""
    (FOLDER / f"begun-{time.time_ns()}").touch()
    deadline = time.monotonic() + 60
    while len(list(FOLDER.glob("begun-*"))) < COUNT and time.monotonic() < deadline:
        time.sleep(0.01)
    raise ValueError("\ud800 as always")
