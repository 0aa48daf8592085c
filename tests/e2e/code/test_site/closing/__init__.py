"""An app of the example's, for the test of its site."""
