"""A distribution given as a table: every law exact."""
