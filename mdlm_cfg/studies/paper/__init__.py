"""What arXiv 2506.10971 says, held against exact laws."""
