"""What every sampler promises: a new one inherits these tests by its entry in `FAMILIES`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from helpers import Inconsistent, chi_square_p_value, random_target
from torch import Tensor

from mdlm_cfg import Correction, Guidance, Sampler, UserError, slice_denoiser
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import LinearRamp
from mdlm_cfg.sampling.families import FAMILIES
from mdlm_cfg.support.seeds import generator_for

N = 3
D = 3
K = 3
Z = 1
BLOCKS = "blocks(1,0|2)"


def examples() -> dict[str, Sampler]:
    """Every sampler as it is without options, with its policy or blocks, with a schedule, and with a correction."""
    found = {}
    for name, family in FAMILIES.items():
        plain = Sampler(name, 3 if "steps" in family.takes else None)
        found[name] = plain
        found[f"{name} corrected"] = replace(plain, correction=Correction(2, 2, accept=True))
        if "schedule" in family.takes:
            found[f"{name} exponential"] = replace(plain, steps=2, schedule="exponential")
        if "policy" in family.takes:
            options = {"steps": None, "schedule": None, "events": 2} if "events" in family.takes else {}
            found[f"{name} blocks"] = replace(plain, policy="margin" if not family.blocks_alone else BLOCKS, **options)
    cold = Sampler("sampled_confidence", events=1, choice_temperature=0.7)
    found["gumbel"] = cold
    found["annealed"] = replace(cold, annealed=True)
    found["annealed cosine"] = Sampler("sampled_confidence", 2, choice_temperature=2.0, annealed=True)
    found["grid"] = Sampler("euler", (0.0, 0.4, 1.5, float("inf")))
    found["events in turn"] = Sampler("event_leaping", events=[1, 2])
    found["events in turn, margin"] = Sampler("event_leaping", events=[2, 1], policy="margin")
    found["drawn events in turn"] = Sampler("sampled_confidence", events=[2, 1])
    found["low threshold"] = Sampler("threshold", threshold=0.45)
    found["low threshold, blocks"] = Sampler("threshold", threshold=0.45, policy=BLOCKS)
    found["high factor"] = Sampler("factor", factor=1.6)
    found["high bound"] = Sampler("entropy_bound", gamma=1.0)
    for remasking in ("cap(0)", "rescale(0.5)", "loop(0.3)", "forward_backward"):
        found[remasking] = Sampler("remdm", 5, remasking=remasking)
    return found


SAMPLERS = examples()
DENOISERS = {
    "zeros": lambda: random_target(N, D, K, seed=12, zeros=0.4).denoiser(),
    "incoherent": lambda: Inconsistent(N, D, K, seed=2),
}
GUIDED = Guidance(1.5)
FALLING = Guidance(LinearRamp(3.0, 0.5))


class Counted:
    """A denoiser that counts its calls."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.num_tokens = denoiser.num_tokens
        self.num_dims = denoiser.num_dims
        self.num_classes = denoiser.num_classes
        self.calls = 0

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        self.calls += 1
        return self.denoiser(tokens, classes)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("make", "z"), [("zeros", Z), ("incoherent", Z), ("zeros", None)])
def test_it_draws_from_its_law(name: str, make: str, z: int | None) -> None:
    sampler = SAMPLERS[name]
    denoiser = DENOISERS[make]()
    guidance = FALLING if make == "incoherent" and sampler.correction is None else GUIDED
    law = sampler.law(denoiser, guidance, z)
    assert law.shape == (N,) * D and float(law.min()) >= 0 and float(law.sum()) == pytest.approx(1, abs=1e-12)
    x = sampler.draw(denoiser, guidance, z, 5000, generator_for("contract", name, make, z))
    assert x.shape == (5000, D) and x.dtype == torch.int64 and 0 <= int(x.min()) <= int(x.max()) < N
    assert chi_square_p_value(x, law) > 1e-4


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_kind_of_guidance_decides_nothing_but_time(name: str) -> None:
    sampler = SAMPLERS[name]
    denoiser = DENOISERS["incoherent"]()
    laws = [sampler.law(denoiser, Guidance(1.5, kind), Z) for kind in ("rate", "normalized")]
    if sampler.family.blocks_alone or sampler.name == "remdm":  # a decoder sees r_i alone; a correction has an order
        assert sampler.correction is not None or float((laws[0] - laws[1]).abs().max()) < 1e-14


@pytest.mark.parametrize("name", SAMPLERS)
def test_its_expected_calls_are_what_it_asks(name: str) -> None:
    sampler = SAMPLERS[name]
    denoiser = DENOISERS["zeros"]()
    expected = sampler.expected_calls(denoiser, Guidance(0.0), Z)
    counts = []
    generator = generator_for("calls", name)
    for _ in range(40 if sampler.is_adaptive else 2):
        counted = Counted(denoiser)
        sampler.draw(counted, Guidance(0.0), Z, 1, generator)
        counts.append(float(counted.calls))
    most = sampler.calls(D)
    # a number between `most` - (D - 1) and `most` has at most this variance (Bhatia and Davis 2000)
    variance = max(most - expected, 0.0) * (expected - most + D - 1) if sampler.is_adaptive else 0.0
    assert abs(sum(counts) / len(counts) - expected) <= 5 * (variance / len(counts)) ** 0.5 + 1e-9
    assert max(counts) <= most and sampler.num_rows(4, D, GUIDED) == 8 * sampler.calls(D)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_known_at_the_start_stays(name: str) -> None:
    sampler = SAMPLERS[name]
    if sampler.policy is not None and "blocks" in str(sampler.policy):
        sampler = replace(sampler, policy=None)  # blocks are of all coordinates, and not of a slice
    if sampler.name == "event_leaping" and sampler.steps is not None:
        sampler = replace(sampler, steps=None, schedule=None, events=1)  # its counts are of all coordinates
    denoiser = Inconsistent(2, 4, K, seed=5)
    start = torch.tensor([2, 1, 2, 2])
    part = slice_denoiser(denoiser, start)
    x = sampler.draw(denoiser, Guidance(2.0), Z, 6000, generator_for("start", name), start=start)
    assert bool((x[:, 1] == 1).all())
    assert chi_square_p_value(x[:, [0, 2, 3]], sampler.law(part, Guidance(2.0), Z)) > 1e-4


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_says_what_it_is(name: str) -> None:
    sampler = SAMPLERS[name]
    assert json.loads(json.dumps(sampler.describe()))["sampler"] == sampler.name and sampler.name in sampler.label
    others = [other for other in SAMPLERS.values() if other != sampler]
    assert sampler.label not in {other.label for other in others}
    assert sampler.describe() not in [other.describe() for other in others]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_it_does_not_take_is_refused(name: str) -> None:
    values = {
        "schedule": "cosine",
        "policy": "uniform",
        "events": 2,
        "choice_temperature": 1.0,
        "annealed": True,
        "threshold": 0.5,
        "factor": 1.0,
        "gamma": 0.2,
        "remasking": "cap(0.1)",
    }
    for option, value in values.items():
        if option not in FAMILIES[name].takes:
            with pytest.raises(UserError, match=option):
                Sampler(name, 3 if "steps" in FAMILIES[name].takes else None, **{option: value})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("threshold", {"threshold": 0}),
        ("threshold", {"threshold": 1.5}),
        ("threshold", {"threshold": "high"}),
        ("threshold", {"threshold": True}),
        ("threshold", {"threshold": float("nan")}),
        ("threshold", {"policy": "confidence"}),
        ("threshold", {"policy": "blocks(0,1|2; margin)"}),
        ("factor", {"factor": 0.0}),
        ("factor", {"factor": float("inf")}),
        ("entropy_bound", {"gamma": -0.1}),
        ("sampled_confidence", {"events": 0}),
        ("sampled_confidence", {"events": 1.5}),
        ("sampled_confidence", {"events": [2, 1], "policy": BLOCKS}),
        ("event_leaping", {"events": []}),
        ("event_leaping", {"events": [1, 0, 2]}),
        ("event_leaping", {"events": [1, 1.5]}),
        ("event_leaping", {"events": [1, True, 1]}),
        ("event_leaping", {"events": [[1, 2]]}),
        ("event_leaping", {"events": "1,2"}),
        ("event_leaping", {"events": [1, 2], "steps": 2}),
        ("event_leaping", {"events": [1, 2], "schedule": "cosine"}),
        ("first_hitting", {"events": [1, 1, 1]}),
        ("euler", {"events": [1, 2]}),
        ("sampled_confidence", {"events": 1, "steps": 2}),
        ("sampled_confidence", {"steps": 2, "policy": BLOCKS}),
        ("sampled_confidence", {"events": 1, "choice_temperature": -1}),
        ("sampled_confidence", {"events": 1, "annealed": 1}),
        ("sampled_confidence", {}),
        ("remdm", {}),
        ("tau_leaping", {}),
        ("first_hitting", {"steps": 5}),
        ("euler", {"steps": True}),
        ("remdm", {"steps": [0.0, float("inf")]}),
        ("remdm", {"steps": 4, "remasking": "cup(0.2)"}),
        ("remdm", {"steps": 4, "remasking": "cap"}),
        ("remdm", {"steps": 4, "remasking": "cap(2)"}),
        ("remdm", {"steps": 4, "remasking": "cap(0.1,0.2)"}),
        ("remdm", {"steps": 4, "remasking": "rescale(x)"}),
        ("remdm", {"steps": 4, "remasking": "loop(0.1, on=0.1, off=0.5)"}),
        ("remdm", {"steps": 4, "remasking": "loop(0.1, upon=0.1)"}),
        ("remdm", {"steps": 4, "remasking": "loop(0.1)", "schedule": "cosine"}),
        ("remdm", {"steps": 4, "remasking": 0.2}),
        ("euler", {"steps": 4, "schedule": "quadratic"}),
        ("euler", {"steps": [0.0, 0.4, float("inf")], "schedule": "cosine"}),
        ("gibbs", {}),
        ("euler", {"steps": 4, "jump": lambda log_z, u: u}),
        ("event_leaping", {"steps": 4, "jump": lambda log_z, u: u}),
    ],
)
def test_values_out_of_range_are_refused(name: str, options: dict) -> None:
    with pytest.raises(UserError) as caught:
        Sampler(name, **options)
    assert str(caught.value).count(". ") == 0


def test_a_law_beyond_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdlm_cfg.laws.rates.memory_limit", lambda: 1000.0)
    monkeypatch.setattr("mdlm_cfg.laws.rates.SMALL_LAW", 0)
    for module in ("rates", "stepped"):  # the rates alone would be refused before
        monkeypatch.setattr(f"mdlm_cfg.laws.{module}.refuse_if_too_large", lambda *_, **__: None)
    denoiser = DENOISERS["incoherent"]()
    for sampler in (
        Sampler("remdm", 4),
        Sampler(correction=Correction(2)),
        Sampler(correction=Correction(2, accept=True)),
    ):
        with pytest.raises(UserError, match=r"(masks again|correction\(size=2).*3(\+1\))?\^3 .* GiB"):
            sampler.law(denoiser, GUIDED, Z)
