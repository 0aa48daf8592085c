"""Every error that proctree-dagster raises on purpose.

A class's docstring is its default message; code that knows more passes its own.
"""

from collections.abc import Iterable


class ProctreeError(Exception):
    """Something went wrong in proctree-dagster."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class InvalidTree(ProctreeError, ValueError):
    """The process tree is not valid.

    ``problems`` lists everything that is wrong with it, not the first finding only.
    """

    def __init__(self, tree_name: str, problems: Iterable[str]) -> None:
        self.tree_name = tree_name
        self.problems = list(problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"Process tree {tree_name!r} is not valid:{lines}")

    def __reduce__(self) -> tuple[type["InvalidTree"], tuple[str, list[str]]]:
        return type(self), (self.tree_name, self.problems)


class TagError(ProctreeError, ValueError):
    """Tags of a run are not valid."""


class SubmissionError(ProctreeError, ValueError):
    """A run can't be requested in this way."""


class TreeExists(ProctreeError, ValueError):
    """A process tree of this name exists already."""


class TreeNotFound(ProctreeError, LookupError):
    """There is no process tree of this name."""


class ScheduleNotFound(ProctreeError, LookupError):
    """The process tree has no schedule of this name."""


class TreeNotSaved(ProctreeError):
    """The process tree must be saved first."""


class DeclarationError(ProctreeError):
    """The declaration of a process tree can't be used."""


class SyncError(ProctreeError):
    """The rows can't follow the code."""


class DescriptionError(ProctreeError, ValueError):
    """The file does not describe process trees."""


class TreeFailed(ProctreeError, RuntimeError):
    """The process tree failed."""


class FunctionError(ProctreeError):
    """The function of a process can't be used."""


class FunctionExited(ProctreeError, RuntimeError):
    """The function called ``sys.exit()``, which no part of a run may."""


class FunctionNotNameable(FunctionError):
    """The function can't be named, so no other process can find it."""


class FunctionNotAllowed(FunctionError):
    """The function's module is not under PROCTREE["FUNCTION_MODULES"]."""


class FunctionNotFound(FunctionError):
    """The function can't be found."""


class FunctionAmbiguous(FunctionError):
    """Several functions were registered under one key, so it stands for none."""


class StandInError(ProctreeError, LookupError):
    """A function was given to stand in for something that the tree does not have."""


class ArgumentError(ProctreeError, TypeError):
    """A process's function needs an argument that nobody gives it."""


class CacheKeyError(ProctreeError, ValueError):
    """The cache key of a process can't be filled in."""


class SecretError(ProctreeError, LookupError):
    """A secret can't be given to a function, or can't be masked."""


class MaskedError(ProctreeError):
    """A process raised an error that holds a secret; its message was masked."""


class ValidationFailed(ProctreeError, ValueError):
    """The result of a process did not pass its checks."""


class ProcessTimeout(ProctreeError, TimeoutError):
    """A process took longer than it may."""


class StillWorking(ProcessTimeout):
    """A process is not tried again, because the try before still works."""


class CacheError(ProctreeError, RuntimeError):
    """The cache of results can't be cleared."""


class UnstorableError(ProctreeError):
    """A process raised an error whose message no database takes; it was escaped."""


class ResponseVariableError(ProctreeError, ValueError):
    """A response variable can't be extracted from a result."""


class ResultNotStored(ProctreeError, TypeError):
    """A result that another process needs could not be stored."""


class SyncCheckError(ProctreeError, TypeError):
    """The function that decides whether a process is in sync can't be used."""


class ContextError(ProctreeError, ValueError):
    """The context can't be stored or restored."""


class ScheduleError(ProctreeError, ValueError):
    """The schedule is not valid."""


class TriggerError(ProctreeError, ValueError):
    """The trigger is not valid.

    ``problems`` lists everything that is wrong with it.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        self.problems = list(problems) or [message]
        super().__init__(message)


class TriggerNotFound(ProctreeError, LookupError):
    """There is no trigger of this name."""


class ExecutorError(ProctreeError, ValueError):
    """There is no such executor."""


class StepLost(ProctreeError, RuntimeError):
    """The process that executed a step is lost: no answer can come."""


class ReportError(ProctreeError, ValueError):
    """What a function reports can't be shown."""


class RevisionNotFound(ProctreeError, LookupError):
    """There is no such revision."""


class RunNotFound(ProctreeError, LookupError):
    """There is no such run."""


class RunNotFinished(ProctreeError, TimeoutError):
    """The run has not ended within the time that its result was waited for."""


class RunError(ProctreeError, RuntimeError):
    """The run can't be canceled, or executed again."""


class CommandError(ProctreeError, ValueError):
    """The management command can't be written."""


class AlertError(ProctreeError, RuntimeError):
    """The alert can't be delivered."""


class InstanceError(ProctreeError, RuntimeError):
    """The Dagster instance can't do this."""


class StorageAway(InstanceError):
    """The server of Dagster's database can't be reached now."""


class HistoryUnavailable(ProctreeError, RuntimeError):
    """Dagster can't be asked for its runs."""


class HistoryLoading(HistoryUnavailable):
    """Dagster is being loaded by this process, which takes some seconds."""


class UnnameableFunctionWarning(UserWarning):
    """A tree was saved with a function that no other process can find."""
