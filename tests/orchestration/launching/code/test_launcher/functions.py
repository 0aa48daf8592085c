import json
import os
import random
import threading
import time
from pathlib import Path

from django.db import connection

FOLDER = Path(os.environ["TEST_FOLDER"])
WORD = "before"


def hold_the_start():
    while (FOLDER / "hold").exists():
        time.sleep(0.05)


def work(tags):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    said = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "word": WORD,
        "random": random.random(),
        "threads": threading.active_count(),
    }
    path = FOLDER / tags["said"]
    part = FOLDER / f"{path.name}.{os.getpid()}.part"  # runs may say the same
    part.write_text(json.dumps(said))
    part.replace(path)
    if tags.get("sleeps"):
        while not (FOLDER / f"{path.name}.go").exists():
            time.sleep(0.05)
