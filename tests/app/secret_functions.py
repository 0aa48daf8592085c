"""Functions that are given a secret, and say it wherever a function can say something."""

import base64
import logging
from collections.abc import Iterator
from typing import Any

from proctree_dagster.process import log_table, progress

logger = logging.getLogger(__name__)

seen: list[Any] = []
"""What the functions were given, in this process."""


def use(token: str, client: str = "") -> int:
    """Use a secret, and say nothing of it."""
    seen.append(token)
    return len(token)


def tell(token: str, client: str = "") -> dict[str, Any]:
    """Return a secret, log it, print it, and show it."""
    logger.warning("The token is %s.", token)
    logger.info("In a header: Basic %s", base64.b64encode(f"user:{token}".encode()).decode())
    try:
        raise ValueError(f"{token} was refused")
    except ValueError:
        logger.exception("Tried with %r", {"token": token})
    progress(1, 1, f"tokens such as {token}")
    log_table([{"at": token, token: 1}], f"table of {token}")
    print(f"printed {token}")
    return {"session": [token, {"header": f"Bearer {token}"}], token: token.encode()}


def fail(token: str, client: str = "") -> None:
    """Fail with a secret in the error, and in the one that it was raised from."""
    try:
        raise KeyError(token)
    except KeyError as error:
        raise ValueError(f"401 for {token}", {"headers": [token]}) from error


def after(tell: Any) -> Any:
    """Return what the process before it has returned."""
    return tell


def each(token: str) -> Iterator[dict[str, str]]:
    """Yield a context for a run with a secret in it."""
    yield {"from": token}


def is_due(token: str) -> bool:
    """Say whether a process is due, in tests by what it is given."""
    seen.append(token)
    raise LookupError(f"nothing at {token}")


def known(name: str) -> str | None:
    """Return a secret: what PROCTREE["SECRETS"] may name."""
    values = {"vault/a": "value of a, from a vault", "short": "abc", "wrong": 5}
    if name == "sealed":
        raise ConnectionError("the vault is sealed")
    return values.get(name)  # type: ignore[return-value]
