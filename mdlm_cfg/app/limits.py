"""How long what follows training will take, and what a time limit of the whole command leaves for training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from mdlm_cfg.app.build import device_meant_by
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.study import Estimated, Study, seconds_by_one
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.progress import clock
from mdlm_cfg.training.limit import Afterwards, WholeTime, parse_time, seconds_per_row
from mdlm_cfg.training.predicting import is_first_process

LONG = 10.0  # seconds: what takes less need not be said beforehand


def what_follows(
    config: Mapping[str, Any], net: nn.Module, data: Any, study: Study | None, plan: Plan
) -> Afterwards | None:
    """How long test and report will take, measured in a moment where training will be; None where that is not known.

    Of exact laws the report of one guidance must be made to know: it is only looked at for a time limit.
    """
    is_told = study is None or isinstance(study, Estimated)
    if not is_told and parse_time(config["max_time"]) is None:
        return None
    net.to(device_meant_by(str(config["trainer"].get("accelerator", "auto"))))
    denoiser = NetDenoiser(net, config["batch_size"])
    test = 2 * config["num_draws"] * len(data._test[0]) * seconds_per_row(denoiser)
    if study is None:
        return Afterwards(test, denoiser, "the test")
    seconds = study.seconds if isinstance(study, Estimated) else partial(seconds_by_one, study)
    return Afterwards(test + seconds(data, denoiser, plan), denoiser)


def time_limit(config: Mapping[str, Any], begun: float, after: Afterwards | None) -> list[WholeTime]:
    """The timer of training for `max_time`, if there is one; says what was estimated.

    Args:
        begun: when the command did, of time.monotonic().

    Raises:
        UserError: a time that is none, or that what follows training takes alone.
    """
    seconds = parse_time(config["max_time"])
    shown = "" if after is None else clock(after())
    if seconds is None or after is None:
        if after is not None and after() > LONG and is_first_process():
            print(f"after training, {after.what} will take about {shown}")
        return []
    timer = WholeTime(seconds, begun, after)
    if timer.left() <= 0:
        gone = clock(time.monotonic() - begun)
        raise UserError(
            f"max_time={config['max_time']} leaves nothing to train: {gone} are gone, and {after.what} alone will "
            f"take about {shown}; give more, evaluate=false, classifier=false, or fewer num_samples"
        )
    if is_first_process():
        print(f"max_time: about {clock(timer.left())} to train, and {shown} for {after.what}")
    return [timer]
