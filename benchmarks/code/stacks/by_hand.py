import django

django.setup()

import bench_functions as functions
import dagster as dg


@dg.op(config_schema={"token": str})
def first(context):
    return functions.first(context.op_config["token"])


@dg.op
def left(first):
    return functions.left(first)


@dg.op
def right(first):
    return functions.right(first)


@dg.op(config_schema={"token": str})
def last(context, left, right):
    return functions.last(context.op_config["token"], left, right)


@dg.job
def bench():
    start = first()
    last(left(start), right(start))


@dg.repository
def process_trees():
    return [bench]
