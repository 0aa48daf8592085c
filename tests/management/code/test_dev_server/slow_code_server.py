"""A code server on a busy machine: it listens after a while, and ends when two have come."""

import sys
import time
from pathlib import Path

socket = Path(sys.argv[1])
time.sleep(0.5)
socket.touch()
while len(list(socket.parent.glob("came*"))) < 2:
    time.sleep(0.05)
