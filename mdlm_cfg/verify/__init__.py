"""Verification: every law, sampler, interval and estimator against an independent enumeration, on fresh targets."""
