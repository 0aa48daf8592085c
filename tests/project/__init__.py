"""Tests of the project itself: layout, words, pages, versions."""
