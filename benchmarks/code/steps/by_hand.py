import django

django.setup()

import bench_functions
import bench_shapes
import dagster as dg


def op(name, function, dependencies):
    @dg.op(name=name, ins={each: dg.In() for each in dependencies})
    def compute(context, **results):
        return getattr(bench_functions, function)(**results)

    return compute


def job(shape):
    nodes, wires = [], {}

    def add(name, function, dependencies):
        nodes.append(op(name, function, dependencies))
        wires[name] = {each: dg.DependencyDefinition(each) for each in dependencies}

    shape(add)
    graph = dg.GraphDefinition(name=shape.__name__, node_defs=nodes, dependencies=wires)
    return graph.to_job(executor_def=dg.in_process_executor)


@dg.repository
def process_trees():
    return [job(bench_shapes.chain), job(bench_shapes.fan)]
