"""Have a template run in a fork of ``serve.py``, and end as it ends.

    python -ISP ask_for_template.py ADDRESS PYTHON ARGUMENT…

``PYTHON`` is what the template takes for its own.
"""

import json
import os
import socket
import sys
from pathlib import Path

address, python, *args = sys.argv[1:]
files = [0, 1, 2]
if "--listener" in args:  # a descriptor, which the fork has as the next one
    at = args.index("--listener") + 1
    files.append(int(args[at]))
    args[at] = "3"
request = {
    **{"args": args, "folder": str(Path.cwd()), "environment": dict(os.environ)},
    **{"anyhow": True, "session": os.getsid(0) == os.getpid(), "executable": python},
}
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(f"\0{address}")
    socket.send_fds(connection, [json.dumps(request).encode()], files)
    connection.shutdown(socket.SHUT_WR)
    for file in files:
        os.close(file)
    with connection.makefile("rb") as lines:
        answers = [json.loads(line) for line in lines]  # its process id, and its exit status
os._exit(answers[-1] if answers else 1)
