# Written by create_command() of proctree-dagster; it may write this file again.
from proctree_dagster.management.base import TreeCommand


class Command(TreeCommand):
    tree_name = "monthly_close"
