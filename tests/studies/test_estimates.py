"""How long a study says that it will take is how long it takes: on a clock that a network's rows alone move on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from helpers import Blurred, Slow, bernoulli_mixture, random_target

from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.studies.corpus import Corpus
from mdlm_cfg.studies.images.study import Images
from mdlm_cfg.studies.inpainting import Inpainting
from mdlm_cfg.studies.likelihood import LikelihoodStudy
from mdlm_cfg.studies.mixture.study import Mixtures
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.study import Estimated, Study, seconds_by_one
from mdlm_cfg.support.progress import silent

PIXELS = bernoulli_mixture(9)
PLAN = Plan((Guidance(0.0), Guidance(2.0)), Sampler(), 40, seed=3)


def pixel_data() -> Any:
    """As much of a data module as studies of images ask for."""
    x, classes = PIXELS.sample(60, torch.Generator().manual_seed(1))
    return SimpleNamespace(
        target=PIXELS, name="small", grid_shape=(3, 3), num_tokens=2, num_classes=PIXELS.num_classes,
        test_x=x, test_classes=classes, _test=(x, classes), test_dataloader=lambda: [(x, classes)],
    )  # fmt: skip


STUDIES: dict[str, Study] = {
    "mixture": Mixtures(),
    "inpainting": Inpainting(num_free=6),
    "likelihood": LikelihoodStudy(num_images=4, orders=2),
}


@pytest.mark.parametrize("name", STUDIES)
def test_rows_are_counted_beforehand(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study, data = STUDIES[name], pixel_data()
    assert isinstance(study, Estimated)
    slow = Slow(Blurred(PIXELS, 0.2), monkeypatch)
    said, begun = study.seconds(data, slow, PLAN), slow.now
    study.run(data, slow, PLAN, silent)
    assert said == pytest.approx(slow.now - begun, rel=0.15)


def test_a_study_without_an_estimate_is_made_at_its_last_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(random_target(2, 2).denoiser(), monkeypatch)

    class Asking:
        def run(self, data: Any, denoiser: Denoiser, plan: Plan, *_: object) -> None:
            for guidance in plan.guidances:
                denoiser(torch.full((3 + int(guidance.constant), 2), 2), None)

    assert seconds_by_one(cast(Study, Asking()), None, slow, PLAN) == 2 * (3 + 2)


def test_every_study_of_samples_says_how_long_it_will_take() -> None:
    assert all(isinstance(study, Estimated) for study in (Images(), Corpus(), *STUDIES.values()))
