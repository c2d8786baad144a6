"""The questions that a report answers, one file each: what a study needs, the pieces of its work, its findings."""
