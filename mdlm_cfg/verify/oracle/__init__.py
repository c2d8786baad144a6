"""The oracle: everything that the package computes, once more by brute force, sharing no code with it.

It imports numpy and the standard library and nothing else. A distribution is a table of class probabilities; states are
tuples, rates are Python floats, sums run over all orders, subsets and paths, kernels and generators are dense
((N+1)^D, (N+1)^D) matrices. It is slow, and short enough to be checked by eye.
"""
