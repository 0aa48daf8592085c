"""``key=value`` pairs on the command line, such as those of ``--set`` and ``--tag``."""

from collections.abc import Iterable

from ..exceptions import ProctreeError


def split(
    pairs: Iterable[str], option: str, example: str, error: type[ProctreeError]
) -> dict[str, str]:
    """Return the text of each key.

    Parameters
    ----------
    pairs:
        As they were typed.
    option, example:
        The option that takes them, and a pair that it would take, for the message.
    error:
        What to raise.

    Raises
    ------
    ProctreeError
        The given one: a pair has no ``=``, or a key is given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, is_pair, text = pair.partition("=")
        if not is_pair or not key:
            raise error(f"{option} takes key=value, such as {option} {example}, not {pair!r}.")
        if key in found:
            raise error(f"{option} gives {key!r} twice.")
        found[key] = text
    return found
