"""What is wrong with what runs the trees, for ``proctree doctor``. It only reads.

``management`` imports it; it may import all of ``orchestration``.
"""
