"""Trees as Dagster's jobs, schedules and sensors: the only package that imports Dagster.

``running``, ``tasks`` and ``management`` import it, and Dagster's own processes; it imports
``services`` and what is below. Users' files name ``repository``, ``translator``, ``executors``,
``launcher``, ``coordinator``, ``hosts``, ``storage`` and ``postgres``: these stay where they are.
"""
