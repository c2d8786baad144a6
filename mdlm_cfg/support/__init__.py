"""Shared by all packages: errors, seeds, progress, files written whole, the speed of the machine."""
