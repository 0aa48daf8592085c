"""What the code location shows of trees: jobs' snapshots, the Launchpad, port types, switches.

``translator`` and ``repository`` import it; it imports ``executors`` and what is below.
"""
