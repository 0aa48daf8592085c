"""Write ``docs/internals/dagster.md`` from the entries of ``dagster_features``: ``make docs``."""

from collections.abc import Iterator
from pathlib import Path

from proctree_dagster.orchestration.dagster_features import FEATURES, Feature
from proctree_dagster.orchestration.dagster_internals import CORE, NAMES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "internals" / "dagster.md"

HEAD = """# What rests on Dagster's internals

Upgrade Dagster within the range that `pyproject.toml` declares, then run
`python manage.py proctree doctor`. If it says that something is off, trees still run; this page
says what is worse, and why it is there at all.

Some of what this package does, Dagster offers no public way for. The names of `dagster._…` that
this takes are imported in one module, `orchestration/dagster_internals.py`; ruff and a test refuse
them anywhere else. A name is imported when it is first needed. If a release has moved it, or
behaves differently, the feature that needs it is off in that process: Dagster's own way is taken,
and a warning is logged once. `manage.py check` (`proctree_dagster.W006`) and `proctree doctor` name
it. The check reads Dagster's source and imports none of it, so it sees names only; the doctor
examines behaviour, too.

`make test-dagster` runs the tests that touch this with the oldest and with the newest Dagster of
the range. This page is written by `make docs`, from `orchestration/dagster_features.py`.

## Features
"""


def page() -> str:
    """Return the page."""
    return "\n".join([HEAD, *(line for each in FEATURES for line in _of(each)), *_core()]) + "\n"


def _of(feature: Feature) -> Iterator[str]:
    yield f"### `{feature.key}`: {feature.title[0].lower()}{feature.title[1:]}\n"
    yield f"- **Without it:** {feature.without}"
    yield f"- **Works around:** {feature.works_around}"
    yield f"- **May go when** {feature.until}"
    names = ", ".join(f"`{NAMES[name]}.{name}`" for name in feature.names)
    yield f"- **Needs:** {names or 'no name, but that Dagster behaves as it does now'}\n"


def _core() -> Iterator[str]:
    yield "## Core\n"
    yield "Without these no tree runs. The error names the Dagster to install, and so does"
    yield "the system check `proctree_dagster.E010`.\n"
    yield from (f"- `{NAMES[name]}.{name}`" for name in CORE)


def main() -> None:
    """Write it."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
