"""Exact laws of the guided chain over all (partial) states."""
