"""Masking of secrets in what processes return, report and raise.

The values that this process of the operating system has been given by ``secrets`` are remembered
in memory, and replaced wherever they appear: as they are, and in the forms that they take in JSON,
in a ``repr``, in HTML, in a URL, in base64 and as hex digits. What a function computes from a
secret, such as its hash or its first half, is not recognised.
"""

import base64
import html
import json
import pickle
import re
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from types import FunctionType
from typing import Any, ClassVar
from urllib.parse import quote, quote_plus

from ..domain.texts import error_chain, explain
from ..exceptions import MaskedError, SecretError

SHORTEST = 4
"""Least characters of a secret: a shorter one would be replaced all over."""

PART_OF_WORD = 8
"""From how many characters on a form is also replaced inside a word."""

MOST = 1000
"""Most values that are remembered; of more, those that were given first are forgotten."""

_LARGEST = 10**40
"""Of whole numbers that are compared with secrets: writing larger ones out takes long."""

_PROTOCOL = 4
"""Of pickles that are searched: from 5 on, some objects write their buffers past the pickler."""


def learn(name: str, value: str) -> None:
    """Remember a value: from now on it is masked.

    Raises
    ------
    SecretError
        It is too short.
    """
    global _masks
    if len(value.strip()) < SHORTEST:
        raise SecretError(
            f"The secret {name!r} has fewer than {SHORTEST} characters: it could not be masked "
            "without masking other texts all over. Use a longer one."
        )
    with _lock:
        if _masks.known.get(value) != name:
            known = {**_masks.known, value: name}
            _masks = _Masks({each: known[each] for each in list(known)[-MOST:]})


def text(given: str) -> str:
    """Return a text with every known secret replaced, by ``(secret NAME)``."""
    return _masks.text(given)


def masked(value: Any) -> Any:
    """Return a result, or a part of one, with every known secret replaced.

    It is the value itself if it holds none, else a copy. What can't be pickled, and so leaves this
    process as text only, is copied as far as it consists of lists, tuples, sets and dictionaries.

    Raises
    ------
    SecretError
        It holds one where it can't be replaced.
    """
    if not _masks.known or value is None or isinstance(value, (bool, float)):
        return value
    if type(value) is str:
        return _masks.text(value)
    try:
        if not _masks.may_be_in(pickle.dumps(value, _PROTOCOL)):
            return value
        pickled, replaced = _pickled(value)
    except Exception:  # noqa: BLE001  # pickling runs the object's own code
        try:
            return _masked_parts(value)
        except RecursionError:  # it leaves this process as text only, which is masked by itself
            return value
    if not replaced:
        return value
    with suppress(Exception):  # such as a Decimal's, of which no text can take the place
        copy = pickle.loads(pickled)  # noqa: S301  # pickled above
        if not _pickled(copy)[1]:
            return copy
    raise SecretError(
        f"It holds a secret in a {type(value).__name__}, in which it can't be masked. Leave the "
        "secret out, or hold it as a text."
    )


def error(raised: BaseException) -> BaseException:
    """Return the error without secrets; another one if its message can't be changed.

    The texts of the error, and of those that it was raised from, are replaced in place.
    """
    if not _masks.known:
        return raised
    chain = list(error_chain(raised))
    for each in chain:
        _mask_error(each)
    if isinstance(raised, Exception) and any(map(_tells, chain)):
        return MaskedError(text(explain(raised))).with_traceback(raised.__traceback__)
    return raised


@contextmanager
def in_errors() -> Iterator[None]:
    """Mask an error that the block raises."""
    try:
        yield
    except BaseException as raised:
        shown = error(raised)
        if shown is raised:
            raise
        raise shown from None


# Errors


def _mask_error(raised: BaseException) -> None:
    try:
        if (args := _quietly(raised.args)) != raised.args:
            raised.args = args
        for name, value in list(vars(raised).items()):
            if isinstance(value, (str, bytes, list, tuple, dict)):
                setattr(raised, name, _quietly(value))
    except Exception:  # noqa: BLE001, S110  # the error's own code; ``error`` replaces it then
        pass


def _quietly(value: Any) -> Any:
    try:
        return masked(value)
    except SecretError:  # ``error`` finds it in the text
        return value


def _tells(raised: BaseException) -> bool:
    try:
        said = "".join(traceback.format_exception_only(raised))
    except (Exception, SystemExit):  # noqa: BLE001  # an exception's own code may fail, too
        return False
    return text(said) != said


# Values


def _masked_parts(value: Any) -> Any:
    """Return a copy of nested containers, of which a part can't be pickled."""
    if type(value) is dict:
        return {masked(key): masked(each) for key, each in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(masked, value))
    return value


def _pickled(value: Any) -> tuple[bytes, int]:
    """Return a pickle without secrets, and how many texts and numbers in it were replaced."""
    file = BytesIO()
    pickler = _MaskingPickler(file)
    pickler.dump(value)
    return file.getvalue(), pickler.replaced


class _MaskingPickler(pickle._Pickler):
    """Pickles objects with the secrets in them replaced, whatever their classes.

    What it replaces is held by its memo, so that no other object gets the id of one.
    """

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file, _PROTOCOL)
        self.replaced = 0
        self._in_name = False

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Save a class or a function: its name is code, also where a secret is called like it."""
        self._in_name = True
        pickle._Pickler.save_global(self, obj, name)  # type: ignore[attr-defined]
        self._in_name = False

    def _save_text(self, value: str) -> None:
        self._write(str, value, value if self._in_name else _masks.text(value))

    def _save_bytes(self, value: bytes) -> None:
        self._write(bytes, value, _masks.raw(value))

    def _save_number(self, value: int) -> None:
        name = None if abs(value) > _LARGEST else _masks.known.get(str(value))
        self._write(int, value, value) if name is None else self._write(str, value, _shown(name))

    def _write(self, kind: type, value: Any, replacement: Any) -> None:
        self.replaced += replacement != value
        save: Any = pickle._Pickler.dispatch[kind]
        save(self, replacement)

    dispatch[str] = _save_text
    dispatch[bytes] = _save_bytes
    dispatch[int] = _save_number
    dispatch[FunctionType] = save_global


# Forms


class _Masks:
    """The known values, in all of their forms; never changed.

    Parameters
    ----------
    known:
        The name of each value.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self.known = known
        self._names: dict[str, str] = {}
        self._raw: dict[bytes, bytes] = {}
        self._numbers: list[bytes] = []
        for value, name in known.items():
            for form in _forms(value):
                self._names.setdefault(form, name)
                raw = form.encode("utf-8", "surrogatepass")
                self._raw[raw] = b"*" * len(raw)
            for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
                raw = value.encode(encoding, "surrogatepass")
                self._raw[raw] = ("*" * len(value)).encode(encoding)
            if len(value) < 40 and re.fullmatch("[1-9][0-9]*", value):
                self._numbers.append(pickle.encode_long(int(value)))
        self._pattern = re.compile("|".join(map(_in_text, _longest_first(self._names))))
        self._raw_pattern = re.compile(b"|".join(map(_in_bytes, _longest_first(self._raw))))

    def text(self, given: str) -> str:
        if not self.known:
            return given
        return self._pattern.sub(lambda match: _shown(self._names[match[0]]), given)

    def raw(self, given: bytes) -> bytes:
        """Return bytes of the same length: what holds them may know how many there are."""
        return self._raw_pattern.sub(lambda match: self._raw[match[0]], given)

    def may_be_in(self, pickled: bytes) -> bool:
        """Return whether a secret is in a pickle, or what looks like one."""
        return any(each in pickled for each in (*self._raw, *self._numbers))


def _shown(name: str) -> str:
    return f"(secret {name})"


def _in_text(form: str) -> str:
    """Return the pattern of a form; a short one counts as a word of its own only."""
    escaped = re.escape(form)
    return escaped if len(form) >= PART_OF_WORD else rf"(?<!\w){escaped}(?!\w)"


def _in_bytes(form: bytes) -> bytes:
    escaped = re.escape(form)
    return escaped if len(form) >= PART_OF_WORD else rb"(?<!\w)" + escaped + rb"(?!\w)"


def _longest_first(forms: Mapping[Any, Any]) -> list[Any]:
    return sorted(forms, key=len, reverse=True)


def _forms(value: str) -> Iterator[str]:
    """Yield the forms in which a value is masked."""
    yield value
    if value.strip() != value:
        yield value.strip()
    for line in value.splitlines():  # of a key in several lines, a log may show one
        if len(line.strip()) >= PART_OF_WORD and not line.startswith("-----"):
            yield line.strip()
    raw = value.encode("utf-8", "surrogatepass")
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield repr(value)[1:-1]
    yield repr(raw)[2:-1]
    yield html.escape(value)
    for quoted in (quote(raw), quote(raw, safe=""), quote_plus(raw)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)
    yield raw.hex()
    yield raw.hex().upper()
    for encoded in _in_base64(raw):
        yield encoded
        yield encoded.replace("+", "-").replace("/", "_")


def _in_base64(raw: bytes) -> Iterator[str]:
    """Yield what base64 makes of a value, alone or after other bytes, such as ``user:``."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        first = (0, 2, 3)[before]  # what the bytes before it have a part in
        last = (0, 3, 2)[(before + len(raw)) % 3]  # what the bytes after it have a part in
        certain = encoded[first : len(encoded) - last]
        if len(certain) >= PART_OF_WORD:
            yield certain


_lock = threading.Lock()
_masks = _Masks({})
