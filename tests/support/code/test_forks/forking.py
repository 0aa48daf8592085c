import asyncio
import multiprocessing
import os
import sys
import threading
import time


def note(word):
    file = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{word}\n".encode())
    os.close(file)


def forked(ending):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return ending()


def leaves(code):
    sys.exit(code)


def exits():
    return forked(lambda: leaves(7))


def exits_with_a_message():
    return forked(lambda: leaves("so long"))


def raises():
    return forked(lambda: 1 / 0)


def returns():
    return forked(lambda: "the child's result")


def yields():
    child = os.fork()
    yield os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else "the child's"


async def awaits():
    await asyncio.sleep(0)
    return forked(lambda: leaves(7))


def in_time():
    return forked(lambda: leaves(7))


def note_late():
    time.sleep(0.3)
    note("daemon")


def becomes_a_daemon():
    def grandchild():
        if os.fork():
            os._exit(0)
        os.setsid()
        threading.Thread(target=note_late).start()

    return forked(grandchild)


def leaves_by_itself():
    return forked(lambda: os._exit(9))


def child_of_multiprocessing():
    process = multiprocessing.get_context("fork").Process(target=note, args=("child",))
    process.start()
    process.join()
    return process.exitcode


def last(**results):
    note("last")
    return "done"
