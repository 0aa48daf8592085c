"""procrastinate: the application that the worker serves; as a program, the client."""

import os

import bench_functions as functions
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_URL"]))


@app.task(name="first")
async def first(token):
    await second.defer_async(token=token, result=functions.first(token))


@app.task(name="second")
async def second(token, result):
    await third.defer_async(token=token, result=functions.second(result))


@app.task(name="third")
async def third(token, result):
    await last.defer_async(token=token, result=functions.third(result))


@app.task(name="last")
async def last(token, result):
    functions.last(token, result)


if __name__ == "__main__":
    from bench_client import serve

    connector = SyncPsycopgConnector(conninfo=os.environ["BENCH_URL"])
    with app.replace_connector(connector), app.open():
        serve(lambda token: first.defer(token=token))
