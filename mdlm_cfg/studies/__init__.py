"""The studies of a report, one file each: what a study needs, the pieces of its work, its findings."""
