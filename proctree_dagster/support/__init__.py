"""Helpers that know nothing of trees: connections, threads, forks, OS processes, the project.

Every package but ``domain`` may import it; it imports ``conf`` and ``exceptions`` only.
"""
