"""Aliases of modules that have moved, for one release.

Old names in users' files (settings, ``dagster.yaml``, code) still work: an import of the old name
gives the module itself, and warns.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = __name__.partition(".")[0]

MOVED = {
    f"{PACKAGE}.{old}": f"{PACKAGE}.{new}"
    for old, new in {
        "execution": "running.tree_runs",
        "orchestration.threads": "orchestration.execution.threads_executor",
        "webserver": "services.webserver",
    }.items()
}
"""New names of moved modules by their old, documented names. Remove them in 0.3."""


class MovedModules(MetaPathFinder, Loader):
    """Finds a module by its old name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the import spec of a moved module; ``None`` for any other."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python create an empty module, which is thrown away."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module itself under its old name."""
        old = module.__name__
        warnings.warn(
            f"{old} is called {MOVED[old]} now; the old name goes with proctree-dagster 0.3.",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[old] = importlib.import_module(MOVED[old])


def install() -> None:
    """Install the finder of the old names."""
    sys.meta_path.append(MovedModules())
