from e2e_app import processes

from proctree_dagster.tree_builder import ProcessTreeInstance

context: dict[str, object] = {
    "null": None,
    "empty": {},
    "in_a_dictionary": {"null": None, "empty": {}, "kept": 1},
    "in_a_list": [None, {}],
}
tree = ProcessTreeInstance("nulls").add_process("write_down", func=processes.write_down)
tree.save()
tree.register_schedule(enabled=False, context=context)
tree.create_command()
