"""``manage.py proctree`` and the base of generated commands. Nothing of this package imports it."""
