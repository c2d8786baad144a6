"""`python -m mdlm_cfg.verify`: see `mdlm_cfg.verify.command`."""

from mdlm_cfg.app.commands import process

if __name__ == "__main__":
    process("mdlm_cfg.verify.command")
