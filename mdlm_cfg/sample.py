"""`python -m mdlm_cfg.sample`: guided samples of a trained network (mdlm-sample).

`mdlm_cfg.sample` is the function of that name: whoever imports this module, in whatever order, gets it too.
"""

import sys

if __name__ == "__main__":
    from mdlm_cfg.app.commands import sample as command

    command()
else:
    from mdlm_cfg.sampling.samples import sample

    sys.modules[__name__] = sample  # type: ignore[assignment]
