"""The output of ``manage.py proctree``: a table in a terminal, tabs in a pipe, JSON on request."""

import codecs
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from django.core.management.base import OutputWrapper
from django.core.management.color import Style
from django.core.serializers.json import DjangoJSONEncoder

from .console import Printer

Row = Sequence[str]


@dataclass
class Output:
    """Where and how an action prints.

    Parameters
    ----------
    stdout, stderr:
        Django's wrappers; warnings go to the second.
    style:
        Django's styles of text, which are blank where colours are not wanted.
    as_json:
        Whether one JSON document is printed, and nothing else.
    """

    stdout: OutputWrapper
    stderr: OutputWrapper
    style: Style
    as_json: bool = False
    verbosity: int = 1
    _print: Printer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._print = Printer(self.stdout)

    @property
    def for_person(self) -> bool:
        """Whether the output is a terminal, and not JSON."""
        return not self.as_json and self.stdout.isatty()

    @property
    def is_unicode(self) -> bool:
        """Whether the standard output can encode every character."""
        encoding = getattr(self.stdout, "encoding", None)
        return encoding is None or codecs.lookup(encoding).name.startswith("utf")

    def line(self, text: str = "") -> None:
        """Print a line for a reader; left out of JSON."""
        if not self.as_json:
            self._print(text)

    def warn(self, text: str) -> None:
        """Print a warning to stderr, in every format."""
        self.stderr.write(self.style.WARNING(text))

    def table(self, headings: Row, rows: Sequence[Row]) -> None:
        """Print rows: aligned under headings in a terminal, else separated by tabs.

        In a pipe there are no headings, and a tab or a line break in a cell becomes a space.
        """
        if self.as_json:
            return
        if not self.for_person:
            for row in rows:
                self._print("\t".join(_one_line(cell) for cell in row))
            return
        self._rich_table(headings, rows)

    def document(self, value: Any) -> None:
        """Print a JSON document, with ``--json`` only."""
        if self.as_json:
            # What a console escapes that lacks a character is no JSON.
            text = json.dumps(
                value, cls=DjangoJSONEncoder, ensure_ascii=not self.is_unicode, indent=2
            )
            self._print(text)

    def _rich_table(self, headings: Row, rows: Sequence[Row]) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(Text(_one_line(cell)) for cell in row))
        text = StringIO()
        width = shutil.get_terminal_size().columns
        Console(file=text, width=width, color_system=None).print(table)
        for line in text.getvalue().splitlines():
            self._print(line.rstrip())


def _one_line(cell: str) -> str:
    return " ".join(cell.split("\t")).replace("\r", " ").replace("\n", " ")
