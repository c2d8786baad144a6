"""The statements of arXiv 2506.10971 and 2507.08965, compared with exact laws."""
