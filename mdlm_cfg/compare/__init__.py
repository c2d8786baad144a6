"""How laws, and samples, compare."""
