"""What a person needs of an error that Dagster has stored."""

import asyncio
import concurrent
import contextlib
import itertools
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import asgiref
import dagster

import proctree_dagster

if TYPE_CHECKING:
    from .dagster_internals import SerializableErrorInfo

_PACKAGES = (asgiref, asyncio, concurrent, dagster, proctree_dagster)
_MACHINERY = (
    *(f'File "{Path(str(package.__file__)).parent}{os.sep}' for package in _PACKAGES),
    *(f'File "{module.__file__}"' for module in (contextlib, threading)),
)
"""How a frame of a traceback begins that belongs to what calls a function."""

_WRAPPERS = ("Dagster", "RetryRequested")
"""How the class of an error begins in which Dagster has wrapped another. The second asks for a
retry; once there is none left, its message is how many there were."""


def fault(error: "SerializableErrorInfo | None") -> str | None:
    """Return what a person needs to know of an error: what Dagster has wrapped."""
    return None if error is None else _message(_unwrapped(error))


def trace(error: "SerializableErrorInfo") -> str:
    """Return the traceback of what Dagster has wrapped, from the function on that was called."""
    found = _unwrapped(error)
    frames = list(itertools.dropwhile(_is_machinery, found.stack)) or found.stack
    return f"Traceback (most recent call last):\n{''.join(frames)}{_message(found)}"


def _is_machinery(frame: str) -> bool:
    return frame.lstrip().startswith(_MACHINERY)


def _unwrapped(error: "SerializableErrorInfo") -> "SerializableErrorInfo":
    while error.cause is not None and (error.cls_name or "").startswith(_WRAPPERS):
        error = error.cause
    return error


def _message(error: "SerializableErrorInfo") -> str:
    return error.message.strip().removeprefix("proctree_dagster.exceptions.")
