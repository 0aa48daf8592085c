"""The translator that the settings name."""

from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from .. import conf

if TYPE_CHECKING:
    from .translator import ProcessTreeTranslator


def translator() -> "ProcessTreeTranslator":
    """Return the translator that ``PROCTREE["TRANSLATOR"]`` names.

    It is imported by its name, as running jobs (followers, re-executions) need it, too.

    Raises
    ------
    ImproperlyConfigured
        It can't be imported, or is no subclass of ``ProcessTreeTranslator``.
    """
    path, base = conf.current().TRANSLATOR, _standard()
    try:
        found = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f'PROCTREE["TRANSLATOR"] can\'t be imported: {error}.'
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ImproperlyConfigured(
            f'PROCTREE["TRANSLATOR"] must name a subclass of ProcessTreeTranslator, not {path!r}.'
        )
    return found()


def is_standard(translator: "ProcessTreeTranslator") -> bool:
    """Return whether a translator is the package's: the jobs of equal trees are equal then."""
    return type(translator) is _standard()


def _standard() -> "type[ProcessTreeTranslator]":
    found: type[ProcessTreeTranslator] = import_string(conf.Settings.TRANSLATOR)
    return found
