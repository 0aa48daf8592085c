"""A process that waits for others, without a clock."""

import os
import time
from pathlib import Path

FOLDER = Path(os.environ["BESIDE_DATABASE"]).parent


def work(name: str, waits_for: list[str]) -> str:
    """Say that it has begun, and wait for what others say."""
    (FOLDER / name).touch()
    ends = time.monotonic() + 200
    while not all((FOLDER / other).exists() for other in waits_for):
        if time.monotonic() > ends:
            raise TimeoutError(f"{name} waited in vain for {waits_for}")
        time.sleep(0.05)
    return name
