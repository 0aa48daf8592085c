"""Saves the tree, and queues a run of it that will fail."""

from closing.processes import close, fetch
from proctree_dagster.tree_builder import ProcessTreeInstance, ProcessTreeManager

tree = ProcessTreeInstance("close month", overwrite=True)
tree.add_process("fetch", func=fetch)
tree.add_process("close", func=close, dependencies=["fetch"])
tree.save()
print(ProcessTreeManager.submit_tree("close month", {"month": "2026-13"}).run_id)
