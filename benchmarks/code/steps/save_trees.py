import bench_shapes

from proctree_dagster.tree_builder import ProcessTreeInstance


def save(shape):
    tree = ProcessTreeInstance(shape.__name__, overwrite=True)

    def add(name, function, dependencies):
        tree.add_process(name, func=f"bench_functions:{function}", dependencies=dependencies)

    shape(add)
    tree.save()


save(bench_shapes.chain)
save(bench_shapes.fan)
