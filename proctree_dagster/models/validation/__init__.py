"""What is wrong with what is to be saved, all problems at once. Nothing is read or changed.

``models`` and whatever is above it may import it.
"""
