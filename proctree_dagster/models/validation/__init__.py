"""What is wrong with what is to be saved, all problems at once, and the table of executors.

No rows of ours are read or changed.

``models`` and whatever is above it may import it.
"""
