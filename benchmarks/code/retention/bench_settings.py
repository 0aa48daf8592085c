import json
import os

from example.settings import *  # noqa: F403
from example.settings import PROCTREE

PROCTREE = {
    **PROCTREE,
    "FUNCTION_MODULES": ["bench_functions", "example.ledger"],
    "KEEP": json.loads(os.environ["BENCH_KEEP"]),
}
