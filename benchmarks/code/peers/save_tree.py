from proctree_dagster.tree_builder import ProcessTreeInstance

tree = ProcessTreeInstance("bench", overwrite=True)
tree.add_process("first", func="bench_functions:first")
tree.add_process("second", func="bench_functions:second", dependencies=["first"])
tree.add_process("third", func="bench_functions:third", dependencies=["second"])
tree.add_process("last", func="bench_functions:last", dependencies=["third"])
tree.save()
