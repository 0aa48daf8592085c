"""A job in which everything happens that can happen to a step. It needs no Django."""

from collections.abc import Iterator

import dagster as dg

fired: list[str] = []


@dg.success_hook
def on_success(context: dg.HookContext) -> None:
    fired.append(f"{context.op.name} succeeded")


@dg.failure_hook
def on_failure(context: dg.HookContext) -> None:
    fired.append(f"{context.op.name} failed: {context.op_exception}")


@dg.success_hook
def that_raises(context: dg.HookContext) -> None:
    raise ValueError("a hook")


@dg.op
def whole() -> int:
    print("whole was here")  # it is what is tested
    return 1


@dg.op(retry_policy=dg.RetryPolicy(max_retries=2, delay=0.01))
def flaky(context: dg.OpExecutionContext, one: int) -> int:
    if context.retry_number < 2:
        raise ConnectionError("not yet")
    return one


@dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
def hopeless() -> int:
    raise ValueError("always")


@dg.op
def exits() -> int:
    raise SystemExit(3)


@dg.op
def refuses() -> int:
    raise dg.Failure("on purpose", metadata={"why": "because"}, allow_retries=False)


@dg.op
def behind(one: int) -> int:
    return one


@dg.op(out={"maybe": dg.Out(is_required=False), "surely": dg.Out()})
def chooses() -> Iterator[dg.Output[int]]:
    yield dg.Output(1, "surely")


@dg.op(pool="narrow")
def pooled(one: int) -> int:
    return one


@dg.op(pool="narrow")
def pooled_and_fails() -> int:
    raise ValueError("in a pool")


@dg.op(out=dg.DynamicOut())
def several() -> Iterator[dg.DynamicOutput[int]]:
    for number in range(3):
        yield dg.DynamicOutput(number, str(number))


@dg.op
def total(numbers: list[int]) -> int:
    return sum(numbers)


@dg.op
async def asynchronous() -> int:
    return 1


@dg.graph
def everything() -> None:
    one = whole.with_hooks({on_success, on_failure, that_raises})()
    behind.alias("after_retries")(flaky.with_hooks({on_success})(one))
    behind.alias("abandoned_too")(behind.alias("abandoned")(hopeless.with_hooks({on_failure})()))
    behind.alias("after_exit")(exits())
    behind.alias("after_refusal")(refuses())
    maybe, surely = chooses()
    behind.alias("skipped_too")(behind.alias("skipped")(maybe))
    behind.alias("not_skipped")(surely)
    pooled(pooled.alias("pooled_first")(one))
    pooled_and_fails()
    total(several().map(behind.alias("each")).collect())
    asynchronous()


@dg.graph
def something() -> None:
    """Less of it, where each step takes a process."""
    flaky(whole())
    behind.alias("abandoned")(hopeless())
    maybe, _ = chooses()
    behind.alias("skipped")(maybe)


def in_process() -> dg.JobDefinition:
    return everything.to_job("everything", executor_def=dg.in_process_executor)


def in_processes() -> dg.JobDefinition:
    executor = dg.multiprocess_executor.configured({"start_method": {"forkserver": {}}})
    return something.to_job("something", executor_def=executor)
