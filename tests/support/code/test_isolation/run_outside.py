import django

django.setup()
import django.test
from django.core.management import call_command

from proctree_dagster import testing
from proctree_dagster.models import OutboxRun
from proctree_dagster.support import isolation
from tests.beside import suite

call_command("migrate", verbosity=0)
with isolation.forced():  # saved without asking the webserver
    suite.set_up()
assert not isolation.in_test()
assert testing.run_tree("busy")["success"]
assert not isolation.is_active()
rows = [(row.process_tree.name, row.state) for row in OutboxRun.objects.all()]
assert rows == [("report", "dropped"), ("report", "dropped")], rows
