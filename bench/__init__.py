"""Speed as ratios to stated bounds and to other code, all measured in one run: `make bench` (python -m bench)."""
