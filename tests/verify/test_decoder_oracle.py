"""The brute force stands alone, and its decoders give the reference cases (theory, sections 16 to 19)."""

from __future__ import annotations

import ast
import functools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import expm

from mdlm_cfg.verify.oracle import chains, decoders, policies
from mdlm_cfg.verify.oracle.tables import random_table, table_conditionals

ROOT = Path(__file__).parent.parent.parent
CASES = json.loads((ROOT / "tests" / "fixtures" / "decoders.json").read_text())["cases"]
IDS = [f"{case['num_tokens']}-{case['dims']}-w{case['w']:g}-{number}" for number, case in enumerate(CASES)]
ALLOWED = {"numpy", "mdlm_cfg.verify.oracle"}


def test_it_imports_nothing_that_it_judges() -> None:
    files = list((ROOT / "mdlm_cfg" / "verify" / "oracle").glob("*.py"))
    assert len(files) == 5
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                standard = name.split(".")[0] in sys.stdlib_module_names
                assert standard or name in ALLOWED or name.rpartition(".")[0] in ALLOWED, f"{path.name}: {name}"
            assert not isinstance(node, ast.ImportFrom) or node.level == 0


class Case:
    def __init__(self, case: dict) -> None:
        self.n = case["num_tokens"]
        self.d = case["dims"]
        self.w = case["w"]
        self.z = case["target_class"]
        pmfs = np.array(case["class_pmfs"]).reshape(-1, *[self.n] * self.d)
        self.pmfs = pmfs
        self.weights = np.array(case["class_weights"])
        chain = chains.Chain(table_conditionals(pmfs, self.weights, self.z), self.n, self.d, self.w, "rate")
        self.rho = chain.rates.__getitem__

    def refill(self, state: chains.State, guidance: str) -> np.ndarray:
        """The terminal law of the chain that starts in a partial state."""
        policy = "uniform" if guidance == "normalized" else "rate"
        return policies.law_by_paths(self.rho, self.n, self.d, policy, start=state)[0]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_decoders_of_the_reference_cases(case: dict) -> None:
    made = Case(case)
    makers = {
        "sampled_confidence": lambda x: decoders.sampled_confidence(made.rho, made.n, int(x)),
        "threshold": lambda x: decoders.threshold(made.rho, made.n, float(x)),
        "entropy_bounded": lambda x: decoders.entropy_bound(made.rho, made.n, float(x)),
    }
    for name, make in makers.items():
        assert case[name] or name != "sampled_confidence"
        for parameter, expected in case[name].items():
            law, calls = decoders.decoded(made.n, made.d, make(parameter))
            assert np.abs(law.flatten() - expected["law"]).max() < 1e-12, (name, parameter)
            assert calls == pytest.approx(expected["expected_calls"], abs=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if "remdm" in case])
def test_remasking_of_the_reference_cases(case: dict) -> None:
    made = Case(case)
    for name, expected in case["remdm"].items():
        rule, eta, steps = re.fullmatch(r"(\w+)\((.*)\), (\d) steps", name).groups()
        alphas = [k / int(steps) for k in range(int(steps) + 1)]
        rule = "cap" if rule == "none" else rule  # "none" has eta = 0
        kernels = decoders.remdm_kernels(made.rho, made.n, alphas, rule, float(eta))
        law = decoders.law_after((made.n,) * made.d, kernels)
        assert np.abs(decoders.to_dense(law, made.n, made.d).flatten() - expected).max() < 1e-12, name


@pytest.mark.parametrize("case", [case for case in CASES if "corrections" in case])
def test_corrections_of_the_reference_cases(case: dict) -> None:
    made = Case(case)
    whole = np.tensordot(made.weights, made.pmfs, 1)
    tilted = chains.tilted(whole, made.pmfs[made.z], made.w).flatten()
    for row in case["corrections"]:
        refill = functools.partial(made.refill, guidance=row["guidance"])
        if row["accept"]:
            policy = "uniform" if row["guidance"] == "normalized" else "rate"
            kernel = decoders.accepted_correction_matrix(made.rho, made.n, made.d, row["size"], policy)
        else:
            kernel = decoders.correction_matrix(refill, made.n, made.d, row["size"])
        law = refill((made.n,) * made.d).flatten()
        assert np.abs(law @ kernel - row["after_1"]).max() < 1e-12
        assert np.abs(law @ kernel @ kernel @ kernel - row["after_3"]).max() < 1e-12
        if row["stationary"] is not None:
            assert np.abs(np.array(row["stationary"]) @ kernel - row["stationary"]).max() < 1e-8
        if row["size"] == 1 or row["accept"]:  # Gibbs sampling, and Metropolis: the tilted law stays
            assert np.abs(tilted @ kernel - tilted).max() < 1e-12


def test_the_law_in_time_is_that_of_the_matrix_exponential() -> None:
    pmfs, weights = random_table(np.random.default_rng(0), 3, 2, 2, 0.2)
    chain = chains.Chain(table_conditionals(pmfs, weights, 1), 3, 2, 4.0, "rate")
    for tau in (0.0, 0.05, 1.0, 9.0):
        law = expm(tau * chain.generator())[chain.index[chain.start]]
        assert np.abs(chain.law_at(tau).flatten() - law).max() < 1e-12


def test_policies_of_the_oracle_tell_rates_from_uniform_orders() -> None:
    rho = {0: [0.2, 0.4], 2: [0.9, 0.5]}
    assert policies.preferences("rate", rho)[2] == pytest.approx(0.7)
    assert policies.preferences("fixed_order", rho) == {0: 1.0, 2: 0.0}
