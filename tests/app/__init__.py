"""A small Django app for the tests; it has no migrations, so its tables are made by syncdb."""
