"""What is computed for a report, one folder for each sort of data."""
