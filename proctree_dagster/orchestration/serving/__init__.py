"""How the code location presents trees: jobs' snapshots, the Launchpad, port types, switches.

``translator`` and ``repository`` import it; it imports ``executors`` and what is below.
"""
