import django

django.setup()
from django.db import connection

from proctree_dagster.support import isolation

assert not isolation.in_test()
name = connection.creation.create_test_db(verbosity=0, serialize=False)
assert isolation.in_test(), name
from proctree_dagster.triggers import fire_trigger
from tests.beside import suite

suite.set_up()
fire_trigger("paid")
