import os

from proctree_dagster.tree_builder import ProcessTreeInstance

tree = ProcessTreeInstance("bench", overwrite=True, reuse_worker="BENCH_REUSE" in os.environ)
tree.add_process("first", func="bench_functions:first")
tree.add_process("left", func="bench_functions:left", dependencies=["first"])
tree.add_process("right", func="bench_functions:right", dependencies=["first"])
tree.add_process("last", func="bench_functions:last", dependencies=["left", "right"])
tree.save()
