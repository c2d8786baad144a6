"""The computations of a report: one file for each study."""
