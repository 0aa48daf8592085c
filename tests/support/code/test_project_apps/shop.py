"""An app's module with all sorts of things in it, also ones that it only imports."""

import subprocess
from functools import lru_cache, partial, wraps
from os import system as renamed  # noqa: F401  # a row may name it, as the two below
from subprocess import Popen as Alias  # noqa: F401

from django.contrib.auth.models import User  # noqa: F401


def run():
    return "run"


def _private():
    return "private"


@lru_cache
def cached():
    return "cached"


class Popen(subprocess.Popen):
    pass


class Shell:
    getoutput = staticmethod(subprocess.getoutput)
    check = subprocess.check_output

    @property
    def secret(self):
        raise SystemExit("a property was read")

    def __call__(self):
        return "shell"

    class Nested:
        @staticmethod
        def run():
            return "nested"

    @classmethod
    def of_class(cls):
        return cls.__name__


class Noisy(type):
    @property
    def secret(cls):
        raise SystemExit("a property was read")

    def __getattr__(cls, name):
        raise SystemExit("an attribute was made up")


class WithMeta(metaclass=Noisy):
    pass


class Inherits(Shell, subprocess.CompletedProcess):
    pass


class Base(subprocess.Popen):
    __call__ = subprocess.Popen.communicate


shell = Shell()
quiet = Base.__new__(Base)
half = partial(subprocess.getoutput, "true")
bound = shell.of_class
wraps_others = wraps(subprocess.getoutput)(lambda *args, **kwargs: subprocess.getoutput(*args))
