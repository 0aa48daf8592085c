from functools import lru_cache, partial, wraps

import sentinel_known
from sentinel_known import Vault, steal
from sentinel_known import steal as _renamed  # noqa: F401  # a row may name it


def good(**kwargs):
    return "good"


@lru_cache
def cached():
    return "good"


class Shop(Vault):
    secret = sentinel_known.Vault.opened
    stolen = staticmethod(steal)

    @staticmethod
    def fair(**kwargs):
        return "good"

    class Shelf:
        @classmethod
        def fair(cls, **kwargs):
            return "good"


class Bare(Vault):
    pass


shop, bare, vault = Shop(), Bare(), Vault()
half, bound = partial(steal), Vault.of_class
wrapped = wraps(steal)(lambda **kwargs: steal())
table = {"steal": steal, "good": good}
