"""What every peer's client does: reads lines of tokens, launches a run of each, and answers."""

import sys
import time


def serve(launch):
    print("ready", flush=True)
    for line in sys.stdin:
        tokens = line.split()
        at = time.time()
        for token in tokens:
            launch(token)
        print(f"launched {at}", flush=True)
