"""Prefect: ``worker`` serves the flow, ``client`` asks the server for runs of it."""

import sys

import bench_functions as functions
from bench_client import serve
from prefect import flow, task
from prefect.deployments import run_deployment

first, second, third, last = (
    task(getattr(functions, name)) for name in ("first", "second", "third", "last")
)


@flow
def chain(token):
    return last(token, third(second(first(token))))


def client():
    serve(lambda token: run_deployment("chain/bench", parameters={"token": token}, timeout=0))


if __name__ == "__main__":
    {"worker": lambda: chain.serve(name="bench"), "client": client}[sys.argv[1]]()
