"""The shipped hidden Markov mixtures, and the user's own from a file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.files import load_hidden_markov
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.sequences import BASES, MOTIFS, dialects, motif_in_noise


def posteriors(target: HiddenMarkovMixture, z: int, num: int = 300) -> torch.Tensor:
    x, _ = target.sample(num, torch.Generator().manual_seed(0), z)
    return target.class_posterior(x)[:, z]


@pytest.mark.parametrize("target", [motif_in_noise(), dialects()], ids=["motif", "dialects"])
def test_classes_are_told_apart_mostly_and_not_always(target: HiddenMarkovMixture) -> None:
    for z in range(2):
        found = posteriors(target, z)
        assert 0.7 < float(found.mean()) < 0.99
        assert 0.02 < float((found < 0.5).double().mean()) < 0.3  # some look like the other class
    assert target.value_names is not None and len(target.value_names) == target.num_tokens


def test_where_the_classes_are_one_the_posterior_says_nothing() -> None:
    for target in (dialects(num_dims=40, apart=0.0), motif_in_noise(num_dims=40, entry=0.0)):
        assert float((posteriors(target, 1) - 0.5).abs().max()) < 1e-12


def test_words_are_separated_and_of_syllables() -> None:
    target = dialects(num_dims=200)
    x, _ = target.sample(100, torch.Generator().manual_seed(1), 0)
    text = ["".join(target.value_names[v] for v in row) for row in x.tolist()]  # type: ignore[index]
    lengths = [len(word) for line in text for word in line.split("_")[1:-1]]
    assert 3 < sum(lengths) / len(lengths) < 9
    vowels = sum(line.count(v) for line in text for v in "aeiou") / (100 * 200)
    assert 0.3 < vowels < 0.5


def test_a_faithful_motif_is_found_word_by_word() -> None:
    target = motif_in_noise(num_dims=40, entry=0.2, fidelity=1.0)
    for z, motif in enumerate(MOTIFS):
        x, _ = target.sample(200, torch.Generator().manual_seed(2), z)
        text = ["".join(BASES[v] for v in row) for row in x.tolist()]
        counts = [sum(line.count(one) for line in text) / 200 for one in MOTIFS]
        # a place is noise for 1 / entry = 5 places on average and then motif for 8: one in 13 places begins one
        assert counts[z] == pytest.approx(33 / 13, rel=0.15)
        assert counts[1 - z] < 0.01 and len(motif) == 8


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: motif_in_noise(entry=1.5), "entry = 1.5"),
        (lambda: motif_in_noise(fidelity=-0.1), "fidelity = -0.1"),
        (lambda: dialects(apart=2.0), "apart = 2.0"),
        (lambda: dialects(num_dims=0), "num_dims = 0 "),
    ],
)
def test_settings_out_of_range_are_refused(make: object, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make()  # type: ignore[operator]


def arrays(**changes: object) -> dict[str, object]:
    """A valid file's arrays, with changes; None leaves one out."""
    r = np.random.default_rng(0)
    valid = {
        "initial": r.dirichlet(np.ones(3), 2),
        "transition": r.dirichlet(np.ones(3), (2, 3)),
        "emission": r.dirichlet(np.ones(4), (2, 3)),
        "class_weights": np.array([0.25, 0.75]),
        "num_dims": 6,
    }
    return {name: value for name, value in (valid | changes).items() if value is not None}


def test_a_mixture_comes_back(tmp_path: Path) -> None:
    held = arrays(class_names=["up", "down"], value_names=list("abcd"))
    np.savez(tmp_path / "h.npz", **held)  # type: ignore[arg-type]
    target = load_hidden_markov(tmp_path / "h.npz")
    for name in ("initial", "transition", "emission", "class_weights"):
        np.testing.assert_allclose(getattr(target, name).numpy(), held[name], atol=1e-15)
    assert target.num_dims == 6 and target.class_names == ("up", "down") and target.value_names == tuple("abcd")
    assert load_hidden_markov(str(tmp_path / "h.npz"), num_dims=9).num_dims == 9
    np.savez(tmp_path / "h.npz", **arrays(num_dims=None))  # type: ignore[arg-type]
    assert load_hidden_markov(tmp_path / "h.npz", num_dims=2).num_dims == 2
    total = math.fsum(load_hidden_markov(tmp_path / "h.npz", num_dims=2).table().pmf.flatten().tolist())
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_dims": None}, "num_dims; .* initial, transition, "),
        ({"transition": None}, "transition; .* initial, emission, "),
        ({"num_dims": 2.5}, r"num_dims .*float64 .*\(\)"),
        ({"num_dims": [3, 4]}, r"num_dims .*int64 .*\(2,\)"),
        ({"num_dims": 0}, "num_dims = 0 "),
        ({"emission": np.array(["a", "b"])}, "emission .*<U1"),
        ({"emission": np.full((2, 3), 1 / 3)}, r"emission .*\(K, S, N\).*\(2, 3\)"),
        ({"emission": np.ones((2, 3, 1))}, r"emission .*\(2, 3, 1\).* N >= 2"),
        ({"initial": np.full((2, 2), 0.5)}, r"initial .*\(2, 3\).*\(2, 2\)"),
        ({"transition": np.full((2, 3, 3), 0.5)}, r"transition\[0, 0\] .* 1\.5 "),
        ({"class_weights": [-0.5, 1.5]}, r"class_weights .* -0\.5: "),
        ({"class_names": ["a", "a"]}, "class_names .* 2 .* 2, .* 1 "),
        ({"value_names": [1, 2, 3, 4]}, r"value_names .*int64 .*\(4,\)"),
    ],
)
def test_files_that_are_no_mixture_get_one_sentence(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    np.savez(tmp_path / "h.npz", **arrays(**changes))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=complaint) as error:
        load_hidden_markov(tmp_path / "h.npz")
    assert str(tmp_path / "h.npz") in str(error.value) and "\n" not in str(error.value)
