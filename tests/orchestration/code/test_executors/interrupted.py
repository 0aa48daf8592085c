import asyncio
import threading
import time
from pathlib import Path

from django.db import connection, connections

FOLDER = Path(__file__).parent
lock = threading.Lock()


def say(*words):
    with lock, (FOLDER / "said").open("a") as file:
        print(*words, file=file)


opened: list[object] = []


def touch():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    opened.append(connections["default"])


def first():
    say("begun first")


def work(name, endless):
    touch()
    say("begun", name)
    try:
        while endless:
            time.sleep(0.01)
    finally:
        say("cleaned", name)


def plain(endless):
    work("plain", endless)


def timed(endless):
    work("timed", endless)


async def coroutine(endless):
    say("begun coroutine")
    try:
        while endless:
            await asyncio.sleep(30)
    finally:
        say("cleaned coroutine")


def last():
    say("begun last")
