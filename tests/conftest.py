"""Makes tests/helpers.py importable, and keeps small tests on one thread: they run faster so."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
