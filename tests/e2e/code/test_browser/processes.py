import logging
import os
import time
import zlib
from pathlib import Path
from pprint import pformat

from proctree_dagster.process import log_image, log_table, progress

logger = logging.getLogger(__name__)
FOLDER = Path(__file__).parent


def fetch(**context):
    return "a file"


def convert(*, name, fetch):
    """Fail when it is called for the first time, and succeed from then on."""
    called = FOLDER / f"{name} was called"
    if not called.exists():
        called.touch()
        raise RuntimeError("the file is locked")
    return f"converted {fetch}"


def publish(*, convert):
    return f"published {convert}"


def watch():
    """Say how far it is, wait to be let go on, and give a table and a picture."""
    logger.info("opening the ledger")
    for number in progress.track(range(3), "invoices"):
        while not (FOLDER / "go_on").exists() and number:
            time.sleep(0.1)
    log_table([{"invoice": "INV-77", "amount": 5}], "invoices")
    log_image(png(32), "chart")


def png(size):
    """Draw a picture that no compression makes small."""

    def chunk(kind, data):
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    pixels = b"".join(b"\0" + os.urandom(3 * size) for _ in range(size))
    header = size.to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def write_down(**context):
    """Write down exactly what came."""
    lines = [f"{key} = {pformat(value, width=1000)}" for key, value in sorted(context.items())]
    (FOLDER / "written_down").write_text("\n".join(lines), encoding="utf-8")
