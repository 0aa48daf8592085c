"""Run a tree each second until a file is there, and print how many seconds each run took."""

import json
import os
import time
from pathlib import Path

from proctree_dagster.tree_builder import ProcessTreeManager

stop, begun, taken = Path(os.environ["BENCH_STOP"]), time.monotonic(), []
while not stop.exists():
    start = time.monotonic()
    result = ProcessTreeManager.execute_tree("bench", context={"lines": 3})
    assert result["success"], result
    taken.append((start - begun, time.monotonic() - start))
    time.sleep(max(0.0, 1.0 - (time.monotonic() - start)))
Path(os.environ["BENCH_TAKEN"]).write_text(json.dumps(taken))
