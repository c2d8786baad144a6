"""Several reports side by side: see `python compare.py --help`."""

from mdlm_cfg.app.commands import compare

if __name__ == "__main__":
    compare()
