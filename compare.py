"""Several reports side by side: see `python compare.py --help`."""

from mdlm_cfg.app.comparing import main

if __name__ == "__main__":
    main()
