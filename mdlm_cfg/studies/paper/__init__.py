"""The claims of arXiv 2506.10971, compared with exact laws."""
