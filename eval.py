"""Judge a trained network or an exact denoiser: python eval.py [ckpt_path=...] [w=[0,1,2,4]] (see README.md)."""

from mdlm_cfg.app.commands import evaluate

if __name__ == "__main__":
    evaluate()
