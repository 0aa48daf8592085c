import django

django.setup()

import bench_functions as functions
import dagster as dg


@dg.op(config_schema={"token": str})
def first(context):
    return functions.first(context.op_config["token"])


@dg.op
def second(first):
    return functions.second(first)


@dg.op
def third(second):
    return functions.third(second)


@dg.op(config_schema={"token": str})
def last(context, third):
    return functions.last(context.op_config["token"], third)


@dg.job
def bench():
    last(third(second(first())))


@dg.repository
def process_trees():
    return [bench]
