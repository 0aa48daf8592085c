"""Who uses the command line."""

import getpass


def login_name() -> str:
    """Return the name of the operating system's user; blank if it has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user need not have a name
        return ""
