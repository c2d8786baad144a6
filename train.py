"""Train a network, test it, and judge it: python train.py [data=...] [experiment=...] (see README.md)."""

from mdlm_cfg.app.commands import train

if __name__ == "__main__":
    train()
