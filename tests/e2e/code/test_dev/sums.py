import logging

logger = logging.getLogger(__name__)


def fetch(count=3):
    return list(range(count))


def total(fetch):
    return sum(fetch)
