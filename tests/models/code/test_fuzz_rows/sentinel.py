import builtins

events = builtins.sentinel_events  # type: ignore[attr-defined]  # the test makes it
events.append(f"{__name__} was imported")


def steal(*args, **kwargs):
    events.append("steal was called")
    return "stolen"


class Vault:
    secret = "the secret"

    def __call__(self, *args, **kwargs):
        return steal()

    @staticmethod
    def open(*args, **kwargs):
        return steal()

    @property
    def opened(self):
        return steal()

    @classmethod
    def of_class(cls, *args, **kwargs):
        return steal()
