import os

from example.settings import *  # noqa: F403
from example.settings import PROCTREE

PROCTREE = {
    **PROCTREE,
    "FUNCTION_MODULES": ["bench_functions", "example.ledger"],
    "MAX_CONCURRENT": int(os.environ["BENCH_WIDTH"]),
}
LOGGING = {"version": 1, "disable_existing_loggers": False}
