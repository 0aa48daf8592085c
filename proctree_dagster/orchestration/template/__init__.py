"""The template process: Dagster, Django and the code location imported once, forked for each run.

``repository`` imports ``preload``; ``launching.template_client`` starts ``process`` by its name.
"""
