"""Celery: the application that the worker serves; as a program, the client."""

import os

import bench_functions as functions
from celery import Celery, chain

app = Celery("celery_peer", broker=os.environ["BENCH_URL"], backend=os.environ["BENCH_URL"])
first, second, third = (
    app.task(getattr(functions, name), name=name) for name in ("first", "second", "third")
)


@app.task(name="last")
def last(result, token):
    return functions.last(token, result)


if __name__ == "__main__":
    from bench_client import serve

    serve(lambda token: chain(first.s(token), second.s(), third.s(), last.s(token)).apply_async())
