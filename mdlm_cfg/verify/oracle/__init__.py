"""The oracle: everything that the package computes, computed again by brute force, with no shared code.

It imports only numpy and the standard library. A distribution is a table of class probabilities; states are
tuples, rates are Python floats, sums run over all orders, subsets and paths, kernels and generators are dense
((N+1)^D, (N+1)^D) matrices. It is slow, and short enough to be checked by eye.
"""
