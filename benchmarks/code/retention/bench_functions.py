import logging

logger = logging.getLogger(__name__)


def talk(lines: int) -> int:
    for number in range(lines):
        logger.warning("Line %s of %s.", number, lines)
    return lines
