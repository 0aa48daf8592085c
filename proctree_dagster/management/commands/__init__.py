"""Django's place for commands; what they do is in ``management.actions``."""
