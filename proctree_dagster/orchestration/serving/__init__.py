"""What the code location shows of trees: jobs' snapshots, the Launchpad, port types, switches.

``repository`` and ``translator`` import it.
"""
