"""Decoders, remasking and corrections against brute force: reference cases to 1e-12 (theory, sections 16 to 19)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdlm_cfg import Correction, Guidance, Sampler, TableMixture, stationary_law, terminal_law, tilted_law
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.corrections import correction_kernel
from mdlm_cfg.laws.stationary import spectral_gap

CASES = json.loads((Path(__file__).parent.parent / "fixtures" / "decoders.json").read_text())["cases"]
SAMPLED = [
    (case, name, option, given, found)
    for case in CASES
    for name, option, key in (
        ("sampled_confidence", "events", "sampled_confidence"),
        ("threshold", "threshold", "threshold"),
        ("entropy_bound", "gamma", "entropy_bounded"),
    )
    for given, found in dict(case[key] or {}).items()
]
REMASKED = [(case, name, law) for case in CASES for name, law in case.get("remdm", {}).items()]
CORRECTED = [(case, one) for case in CASES for one in case.get("corrections", [])]


def case_target(case: dict) -> TableMixture:
    pmfs = torch.tensor(case["class_pmfs"], dtype=torch.float64)
    shape = [case["num_tokens"]] * case["dims"]
    return TableMixture(pmfs.reshape(-1, *shape), torch.tensor(case["class_weights"], dtype=torch.float64))


def difference(law: Tensor, expected: list[float]) -> float:
    return float((law.flatten() - torch.tensor(expected, dtype=torch.float64)).abs().max())


def size_of(case: dict) -> str:
    return f"N{case['num_tokens']}-D{case['dims']}-w{case['w']}"


@pytest.mark.parametrize(
    ("case", "name", "option", "given", "found"), SAMPLED, ids=[f"{size_of(c)}-{n}-{g}" for c, n, _, g, _ in SAMPLED]
)
def test_laws_and_calls_of_decoders(case, name, option, given, found):
    value = int(given) if option == "events" else float(given)
    sampler = Sampler(name, **{option: value})
    denoiser = case_target(case).denoiser()
    for kind in ("rate", "normalized"):  # a decoder sees what a coordinate becomes, and not when
        guidance = Guidance(case["w"], kind)
        assert difference(sampler.law(denoiser, guidance, case["target_class"]), found["law"]) < 1e-12
        calls = sampler.expected_calls(denoiser, guidance, case["target_class"])
        assert calls == pytest.approx(found["expected_calls"], abs=1e-12)


@pytest.mark.parametrize(("case", "name", "law"), REMASKED, ids=[f"{size_of(c)}-{n}" for c, n, _ in REMASKED])
def test_laws_of_remasking(case, name, law):
    remasking, steps = name.split(", ")
    remasking = "cap(0)" if remasking.startswith("none") else remasking
    sampler = Sampler("remdm", int(steps.split()[0]), remasking=remasking)
    assert difference(sampler.law(case_target(case).denoiser(), Guidance(case["w"]), case["target_class"]), law) < 1e-12


@pytest.mark.parametrize(
    ("case", "one"),
    CORRECTED,
    ids=[f"{size_of(c)}-{o['guidance']}-{o['size']}{'-accept' * o['accept']}" for c, o in CORRECTED],
)
def test_laws_of_corrections(case, one):
    denoiser = case_target(case).denoiser()
    guidance = Guidance(case["w"], one["guidance"])
    z = case["target_class"]
    correction = Correction(size=one["size"], accept=one["accept"])
    kernel = correction_kernel(denoiser, guidance, z, correction)
    law = terminal_law(denoiser, guidance, z)
    for moves in (1, 2, 3):
        law = kernel.move(law)
        if f"after_{moves}" in one:
            assert difference(law, one[f"after_{moves}"]) < 1e-12
            sampler = Sampler(correction=Correction(one["size"], moves, one["accept"]))
            assert difference(sampler.law(denoiser, guidance, z), one[f"after_{moves}"]) < 1e-12
    gap = spectral_gap(denoiser, guidance, z, correction)
    assert gap == pytest.approx(1 - one["second_eigenvalue"], abs=1e-12)
    found = stationary_law(denoiser, guidance, z, correction)
    # the law that moves leave as it is: what they still change of it, over the gap, bounds how far it is
    assert total_variation(kernel.move(found), found) < 1e-14 and gap > 1e-2
    if one["accept"] or one["size"] == 1:
        assert difference(found, tilted_law(case_target(case), case["w"], z).flatten().tolist()) < 1e-12
    if one["stationary"] is not None:  # known to 3e-10 alone: for k = 1 it is as far from the tilted law
        assert difference(found, one["stationary"]) < 1e-9
