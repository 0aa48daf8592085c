import json
import os
import time
from pathlib import Path

FOLDER = Path(__file__).parent
WORD = "before"
DATA = (FOLDER / "word").read_text()


def speak(name="scheduled", sleeps=False, **context):
    said = {"pid": os.getpid(), "parent": os.getppid(), "word": WORD, "data": DATA}
    part = FOLDER / f"{name}.said.{os.getpid()}.part"
    part.write_text(json.dumps(said))
    part.replace(FOLDER / f"{name}.said")
    while sleeps and not (FOLDER / f"{name}.go").exists():
        time.sleep(0.05)


def endless(name):
    speak(name)
    try:
        while True:
            time.sleep(0.05)
    finally:
        (FOLDER / f"{name}.cleaned").touch()


def left(**context):
    endless("left")


def right(**context):
    endless("right")
