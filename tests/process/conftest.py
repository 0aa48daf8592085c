"""Fixtures of the tests of processes."""

import logging
from collections.abc import Iterator

import pytest

from proctree_dagster.process import masking


@pytest.fixture
def no_secrets_yet() -> Iterator[None]:
    """Let this process know no secret before the test, and forget those of the test."""
    before, factory = masking._masks, logging.getLogRecordFactory()
    masking._masks = masking._Masks({})
    yield
    masking._masks = before
    logging.setLogRecordFactory(factory)
