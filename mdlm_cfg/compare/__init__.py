"""Distances between laws and samples, and their uses: error budgets, geometry, decay, calibration, likelihoods."""
