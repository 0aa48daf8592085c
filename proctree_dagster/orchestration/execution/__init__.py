"""How a run's processes are executed: in threads or elsewhere, their events, logs, results.

``executors`` and ``translator`` import it; it imports ``runs``.
"""
