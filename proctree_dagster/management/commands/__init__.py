"""Django's folder of commands; their actions are in ``management.actions``."""
