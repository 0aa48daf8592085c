import django

django.setup()

from bench_client import serve

from proctree_dagster.tree_builder import ProcessTreeManager


def launch(token):
    result = ProcessTreeManager.execute_tree("bench", context={"token": token})
    assert result["success"], result


serve(launch)
