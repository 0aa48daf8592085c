"""Giving the space of removed rows back to the disk: SQLite keeps it in its files otherwise.

A file gives it back a few pages at a time, if it was made for that or rewritten once. Rewriting a
large file holds its lock for as long as that takes, so only a small one is rewritten while runs go
on.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from ...domain.pace import Pace
from ..homes import INCREMENTAL, rewrite_to_shrink

REWRITTEN_AT_ONCE = 4 * 1024**2
"""Bytes of a file's content up to which it is rewritten while others use it: it takes 0.05 s."""

PAGES = 2
"""How many pages are given back for each row that a batch would have."""

WORTH_IT = 1024**2
"""Bytes that are worth to be given back."""


@contextmanager
def held_open(files: Iterable[Path]) -> Iterator[Callable[[], None]]:
    """Hold SQLite files open, so that nobody who closes one has to wait for the disk.

    Yields what writes their logs back, which keeps nobody from writing.
    """
    with ExitStack() as opened:
        connections = [
            opened.enter_context(closing(sqlite3.connect(file, timeout=30, isolation_level=None)))
            for file in files
            if file.is_file()
        ]
        for connection in connections:
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()  # opens it

        def write_back() -> None:
            for connection in connections:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

        yield write_back


def give_back(files: Iterable[Path], pace: Pace, *, rewrite: bool = False) -> list[str]:
    """Give unused pages of SQLite files back; return what could not be, as sentences.

    Parameters
    ----------
    files:
        The files; those that do not exist are left out.
    pace:
        How much is given back at once.
    rewrite:
        Whether large files are rewritten, too, if they must be: it holds their locks.
    """
    found = (_give_back(each, pace, rewrite=rewrite) for each in files if each.is_file())
    return [each for each in found if each]


def _give_back(file: Path, pace: Pace, *, rewrite: bool) -> str:
    with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")  # the disk is waited for without a lock
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        unused, size = _unused(connection), _number(connection, "page_size")
        if unused * size < WORTH_IT:
            return ""
        if _number(connection, "auto_vacuum") != INCREMENTAL:
            content = (_number(connection, "page_count") - unused) * size
            if content > REWRITTEN_AT_ONCE and not rewrite:
                return (
                    f"{file} has {unused * size / 1e6:.0f} MB to give back, and must be rewritten "
                    "for it once: 'proctree prune --rewrite', while nothing runs."
                )
            with pace.batch():
                rewrite_to_shrink(connection)
        before = unused + 1
        while 0 < (unused := _unused(connection)) < before and not pace.is_over:
            before = unused
            connection.execute("BEGIN IMMEDIATE")  # waits for others, which is not timed
            with pace.batch():
                # One page at a time: Python takes one step of this statement, whatever its number.
                for _ in range(PAGES * pace.size):
                    connection.execute("PRAGMA incremental_vacuum(1)")
                connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return ""


def _unused(connection: sqlite3.Connection) -> int:
    return _number(connection, "freelist_count")


def _number(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
