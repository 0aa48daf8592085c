"""What is imported once and forked for each run: ``server`` forks, ``worker`` is the fork.

``repository`` imports ``preload``; ``launching.template_client`` starts the package by its name.
"""
