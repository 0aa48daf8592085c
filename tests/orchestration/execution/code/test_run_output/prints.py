"""Prints while its output is captured, also which programs it has started; then it waits."""

import sys
import time

import psutil
from dagster._core.execution import compute_logs

from proctree_dagster.orchestration.execution import run_output

run_output.follow_by_tail_alone()
with compute_logs.mirror_stream_to_file(sys.stdout, sys.argv[1]):
    print("printed", flush=True)
    children = psutil.Process().children()
    print("children", *(f"{each.name()}:{each.pid}" for each in children), flush=True)
    time.sleep(float(sys.argv[2]))
