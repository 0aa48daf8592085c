"""What a browser sends of a page's form, read from its HTML."""

from collections.abc import Iterator
from html.parser import HTMLParser

from django.utils.datastructures import MultiValueDict


class _Fields(HTMLParser):
    """Collects the successful controls of a page, as HTML calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._templates = 0
        self._textarea: tuple[str, list[str]] | None = None
        self._select: tuple[str, list[tuple[str, bool]]] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "template":
            self._templates += 1
        name = given.get("name", "")
        if self._templates or (not name and tag != "option"):
            return
        if tag == "textarea":
            self._textarea = (name, [])
        elif tag == "select":
            self._select = (name, [])
        elif tag == "option" and self._select is not None:
            self._select[1].append((given.get("value", ""), "selected" in given))
        elif tag == "input":
            self._add_input(name, given)

    def _add_input(self, name: str, given: dict[str, str]) -> None:
        kind = given.get("type", "text")
        if kind in ("submit", "button", "image", "reset"):
            return
        if kind in ("checkbox", "radio"):
            if "checked" in given:
                self.found.append((name, given.get("value", "on")))
            return
        self.found.append((name, given.get("value", "").replace("\r", "").replace("\n", "")))

    def handle_endtag(self, tag: str) -> None:
        if tag == "template":
            self._templates -= 1
        elif tag == "textarea" and self._textarea is not None:
            name, parts = self._textarea
            text = "".join(parts).replace("\r\n", "\n").replace("\r", "\n").removeprefix("\n")
            self.found.append((name, text.replace("\n", "\r\n")))
            self._textarea = None
        elif tag == "select" and self._select is not None:
            name, options = self._select
            chosen = [value for value, is_chosen in options if is_chosen]
            self.found += [(name, value) for value in chosen or [each for each, _ in options[:1]]]
            self._select = None

    def handle_data(self, data: str) -> None:
        if self._textarea is not None:
            self._textarea[1].append(data)


def fields(html: str) -> MultiValueDict[str, str]:
    """Return what a browser sends of the fields on a page that nobody has touched."""
    parser = _Fields()
    parser.feed(html)
    parser.close()
    found: dict[str, list[str]] = {}
    for name, value in parser.found:
        found.setdefault(name, []).append(value)
    return MultiValueDict(found)


def pairs(sent: MultiValueDict[str, str]) -> dict[str, list[str]]:
    """Return what was sent as Django's test client takes it."""
    return dict(sent.lists())


def ids(html: str) -> Iterator[str]:
    """Return the ids on a page, without those in templates."""
    parser = _Ids()
    parser.feed(html)
    yield from parser.found


class _Ids(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._templates = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._templates += tag == "template"
        if not self._templates:
            self.found += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        self._templates -= tag == "template"
