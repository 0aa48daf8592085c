"""SQLAlchemy's engines of SQLite files: they share what does not depend on the file.

Dagster keeps the events of each run in a file of its own. A new engine learns what this SQLite can
do, and compiles each statement, once more: that takes longer than to write a run's first event.
"""

from functools import cache
from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.pool import NullPool
from sqlalchemy.util import LRUCache

_STATEMENTS = 100
"""How many compiled statements are kept, those that were used last.

More than Dagster has in use. SQLAlchemy's 500 fill up: each time an instance is opened, alembic
compiles a statement that is never used again (10 kB).
"""


def engine_of(url: str | URL, timeout: float | None = None) -> Engine:
    """Return a new engine of a file. It keeps no connection open.

    Parameters
    ----------
    url:
        The file's, as SQLAlchemy has it.
    timeout:
        Most seconds to wait for the lock of another connection; ``None`` for SQLite's own.
    """
    dialect, statements = _shared()
    address = make_url(url)
    args, options = dialect.create_connect_args(address)
    if timeout is not None:
        options["timeout"] = timeout
    pool = NullPool(lambda: dialect.connect(*args, **options), dialect=dialect)
    prepare = dialect.on_connect_url(address)
    if prepare is not None:
        sqlalchemy.event.listen(pool, "connect", lambda connection, record: prepare(connection))
    return Engine(pool, dialect, address, execution_options={"compiled_cache": statements})


@cache
def _shared() -> tuple[Any, Any]:
    """Return SQLAlchemy's dialect of this SQLite, and the compiled statements."""
    first = sqlalchemy.create_engine("sqlite://", poolclass=NullPool)
    with first.connect():
        pass  # it learns from the first connection
    return first.dialect, LRUCache(_STATEMENTS)
