"""What is wrong with what is to be saved, all problems at once; what a tree's runs may be given.

No rows of ours are read or changed. ``context_schema`` says which keys a tree's context takes, and
``executor_names`` holds the table of executors.

``models`` and whatever is above it may import it.
"""
