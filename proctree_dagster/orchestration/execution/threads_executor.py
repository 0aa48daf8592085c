"""The threads executor, by the name that settings and trees give it.

``steps_in_threads`` is how it works. Where this Dagster does not allow it, the name stands for
Dagster's in-process executor, and the log says so: the settings and the trees stay as they are.
"""

from dagster import in_process_executor

from ..dagster_features import THREADS, is_on

if is_on(THREADS):
    from .steps_in_threads import ThreadsExecutor as ThreadsExecutor
    from .steps_in_threads import threads_executor as threads_executor
else:
    threads_executor = in_process_executor
