import logging
import os
import threading
import time
from pathlib import Path

FOLDER = Path(__file__).parent


def one():
    return 1


def fails():
    raise ValueError("on purpose")


def up_to_date():
    return False


def even(result):
    return result % 2 == 0, f"{result} is odd"


def shown(**context):
    return sorted(context.items())


def in_the_pool(name, seconds=1.0):
    with (FOLDER / "pool.txt").open("a") as file:
        file.write(f"{time.time()} {os.getpid()} {name} begins\n")
    time.sleep(seconds)
    with (FOLDER / "pool.txt").open("a") as file:
        file.write(f"{time.time()} {os.getpid()} {name} ends\n")


def outlives(**context):
    (FOLDER / "outlives.txt").write_text(str(os.getpid()))
    time.sleep(300)


def ill_mannered():
    from django.db import transaction

    from example.ledger.models import Organisation

    print("printed")
    logging.getLogger("example").warning("logged")
    threading.Thread(target=time.sleep, args=(300,), daemon=True).start()
    transaction.set_autocommit(False)
    Organisation.objects.create(name="ghost", currency="ZAR")


def ghosts(**context):
    from example.ledger.models import Organisation

    return Organisation.objects.filter(name="ghost").count()
