"""Verification of every law, sampler, interval and estimator against an independent enumeration, on new targets."""
