"""Have a command line of Python run in a fork of ``serve.py``, and end as it ends.

    python -ISP ask.py ADDRESS PYTHON ARGUMENT…

``PYTHON`` is executed where no fork can stand for it.
"""

import json
import os
import socket
import sys
from pathlib import Path

address, python, *args = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(f"\0{address}")
    request = {"args": args, "folder": str(Path.cwd()), "environment": dict(os.environ)}
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    connection.shutdown(socket.SHUT_WR)
    with connection.makefile("rb") as lines:
        answers = [json.loads(line) for line in lines]  # its process id, and its exit status
answer = answers[-1] if answers else 1
if answer is None:
    os.execv(python, [python, *args])
sys.exit(answer)
