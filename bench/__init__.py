"""Speed as ratios against stated yardsticks, all measured in one run: `make bench` (python -m bench)."""
