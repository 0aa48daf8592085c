"""Bookkeeping for several organisations: their journals come in, their statements go out."""
