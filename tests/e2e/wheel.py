"""The wheel, in a virtual environment that has nothing else of this checkout.

Its dependencies are those of the tests' environment, seen through a path file, and the versions
that the wheel asks for are compared with them: to download them again would take minutes.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.tools import TOP

PACKAGE = "proctree_dagster"
SOURCES = (PACKAGE, "pyproject.toml", "README.md", "LICENSE")


def _pip(*args: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *args],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def build(folder: Path) -> Path:
    """Return the wheel, built from a copy in a folder: a build leaves files behind."""
    sources, made = folder / "sources", folder / "wheel"
    sources.mkdir(parents=True)
    for name in SOURCES:
        source = TOP / name
        if source.is_dir():
            shutil.copytree(
                source, sources / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        else:
            shutil.copy(source, sources / name)
    _pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(made), str(sources))
    [found] = made.glob("*.whl")
    return found


def install(wheel: Path, folder: Path) -> str:
    """Return the Python of a new environment in a folder, which has the wheel."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    found = str(folder / "bin" / "python")
    _pip("--python", found, "install", "--quiet", "--no-deps", str(wheel))
    # A path file within a folder that a path file names is not read: so no editable checkout.
    [site_packages] = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    django_admin = Path(found).with_name("django-admin")  # as pip makes it with Django
    django_admin.write_text(
        f"#!{found}\nfrom django.core import management\nmanagement.execute_from_command_line()\n"
    )
    django_admin.chmod(0o755)
    return found
