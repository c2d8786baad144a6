"""`python -m mdlm_cfg.dashboards`; see `mdlm_cfg.app.dashboards`."""

from mdlm_cfg.app.dashboards import main

if __name__ == "__main__":
    main()
