"""A network with label heads as a denoiser is asked once for a partial state, and answers as if asked for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from helpers import Opaque

from mdlm_cfg import Correction, Guidance, Sampler, UserError, calibrate, stationary_law, terminal_law
from mdlm_cfg.chain.denoiser import conditionals, conditionals_under
from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.chain.product_rules import Compose, Negative
from mdlm_cfg.chain.rules import CFG, Rule
from mdlm_cfg.laws.slices import slice_denoiser
from mdlm_cfg.nets.transformer import GridTransformer
from mdlm_cfg.nets.wrapper import NetDenoiser

N = 3
D = 4
K = 3
ROUNDING = 1e-6  # of float32
RULES: dict[str, Rule] = {"cfg": CFG(), "negative": Negative(2), "compose": Compose({0: 1.0, 1: 0.5})}


def network(label_heads: bool = True) -> GridTransformer:
    """A network whose parameters are off their initial values."""
    torch.manual_seed(0)
    net = GridTransformer(N, (D,), K, width=8, depth=1, num_heads=2, label_heads=label_heads)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return net


def counted(net: GridTransformer) -> list[int]:
    """The rows of every pass of a network, from now on."""
    rows: list[int] = []
    net.patch_in.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    return rows


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


STATE = torch.tensor([N, 1, N, N])
USES: dict[str, Callable[[Any, Guidance], torch.Tensor]] = {
    "law": lambda denoiser, guidance: terminal_law(denoiser, guidance, 1),
    "law of a decoder": lambda denoiser, guidance: Sampler("sampled_confidence", events=1).law(denoiser, guidance, 1),
    "samples": lambda denoiser, guidance: Sampler("event_leaping", 3).draw(denoiser, guidance, 1, 50, seeded()),
    "samples with a policy": lambda denoiser, guidance: Sampler("event_leaping", 3, policy="confidence").draw(
        denoiser, guidance, 1, 50, seeded()
    ),
    "moves": lambda denoiser, guidance: Correction(size=2, moves=3).draw(
        denoiser, guidance, 1, torch.zeros(50, D, dtype=torch.int64), generator=seeded()
    ),
    "stationary law": lambda denoiser, guidance: stationary_law(denoiser, guidance, 1, Correction(size=1)),
    "slice": lambda denoiser, guidance: terminal_law(slice_denoiser(denoiser, STATE), guidance, 1),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("use", USES)
def test_guidance_asks_for_a_partial_state_once(use: str, rule: str) -> None:
    net = network()
    guidance = Guidance(1.5, rule=RULES[rule])
    rows = counted(net)
    found = USES[use](NetDenoiser(net), guidance)
    together = sum(rows)
    rows.clear()
    expected = USES[use](Opaque(NetDenoiser(net)), guidance)  # a row for each label
    labels = 3 if rule == "compose" else 2
    assert sum(rows) == labels * together > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


def test_calibration_asks_for_a_partial_state_once() -> None:
    net = network()
    rows = counted(net)
    x = torch.randint(N, (40, D), generator=seeded())
    found = calibrate(NetDenoiser(net), 1, x, generator=seeded()).strengths
    together = sum(rows)
    rows.clear()
    expected = calibrate(Opaque(NetDenoiser(net)), 1, x, generator=seeded()).strengths
    assert sum(rows) == 2 * together + 1 and together > 0  # and one state, whose answer's type is that of its rounding
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("label_heads", [False, True])
@pytest.mark.parametrize("batch_size", [3, 1024])
def test_answers_are_those_one_by_one(label_heads: bool, batch_size: int) -> None:
    denoiser = NetDenoiser(network(label_heads), batch_size)
    tokens = torch.randint(N + 1, (8, D), generator=seeded())
    labels = (2, None, 0)
    found = conditionals_under(denoiser, tokens, labels)
    assert found.shape == (3, 8, D, N) and found.dtype == torch.float64
    for one, label in zip(found, labels):
        torch.testing.assert_close(one, conditionals(denoiser, tokens, label), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("batch_size", [1, 7, 1024])
def test_convolutions_that_see_no_label_are_computed_once(batch_size: int) -> None:
    net = GridTransformer(N, (D,), K, width=8, depth=1, num_heads=2, stem_channels=4)
    rows: list[int] = []
    net.stem.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    tokens = torch.randint(N + 1, (8, D), generator=seeded())
    found = conditionals_under(NetDenoiser(net, batch_size), tokens, (2, None, 0))
    assert sum(rows) == 8 and 3 * max(rows) <= max(3, batch_size)
    for one, label in zip(found, (2, None, 0)):
        torch.testing.assert_close(one, conditionals(NetDenoiser(net), tokens, label), rtol=0, atol=ROUNDING)


def test_a_forward_of_ones_own_is_asked_under_every_label() -> None:
    class Own(GridTransformer):
        def forward(self, tokens: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(tokens, None if classes is None else (classes + 1) % (K + 1))

    net = Own(N, (D,), K, width=8, depth=1, num_heads=2)
    tokens = torch.randint(N + 1, (8, D), generator=seeded())
    found = conditionals_under(NetDenoiser(net), tokens, (1, None))
    for one, label in zip(found, (1, None)):
        torch.testing.assert_close(one, conditionals(NetDenoiser(net), tokens, label), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("label_heads", [False, True])
@pytest.mark.parametrize("label", [-1, K + 1])
def test_a_label_that_does_not_exist_is_refused(label_heads: bool, label: int) -> None:
    with pytest.raises(UserError):
        conditionals_under(NetDenoiser(network(label_heads)), torch.full((1, D), N), (label, None))


@pytest.mark.parametrize("shape", [(2, 5, D, N + 1), (5, 2, D, N), (10, D, N), (2, 5, N, D)])
def test_answers_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    class Wrong(Opaque):
        def of_labels(self, tokens: torch.Tensor, labels: object) -> torch.Tensor:
            return torch.zeros(shape)

    with pytest.raises(UserError):
        conditionals_under(Wrong(NetDenoiser(network())), torch.full((5, D), N), (0, None))


def test_answers_that_are_no_log_probabilities_are_refused() -> None:
    class Wrong(Opaque):
        def of_labels(self, tokens: torch.Tensor, labels: tuple[int, ...]) -> torch.Tensor:
            return torch.full((len(labels), len(tokens), D, N), 1 / N)

    with pytest.raises(UserError):
        conditionals_under(Wrong(NetDenoiser(network())), torch.full((5, D), N), (0, None))


@pytest.mark.parametrize("label_heads", [False, True])
def test_a_network_of_ones_own_need_not_copy_what_is_unmasked(label_heads: bool) -> None:
    class Own(GridTransformer):
        def forward(self, tokens: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(torch.full_like(tokens, N), classes)

        def under_labels(self, tokens: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
            return super().under_labels(torch.full_like(tokens, N), labels)

    net = Own(N, (D,), K, width=8, depth=1, num_heads=2, label_heads=label_heads)
    tokens = torch.randint(N + 1, (8, D), generator=seeded())
    denoiser = NetDenoiser(net)
    for found in (denoiser(tokens), *denoiser.of_labels(tokens, [0, K])):
        assert torch.equal(found, copy_unmasked(found, tokens)) and (found > -torch.inf)[tokens == N].all()


@pytest.mark.parametrize("what", ["overridden", "wrapped", "NaN"])
@pytest.mark.parametrize("ask", [lambda *of: conditionals(*of, None), lambda *of: conditionals_under(*of, [0])])
def test_answers_of_ones_own_are_checked(ask: Callable[[Any, torch.Tensor], torch.Tensor], what: str) -> None:
    class Own(NetDenoiser):
        def __call__(self, tokens: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
            return super().__call__(tokens, classes) - 1

        def of_labels(self, tokens: torch.Tensor, labels: Any) -> torch.Tensor:
            return super().of_labels(tokens, labels) - 1

    net = network(label_heads=False)
    tokens = torch.full((2, D), N)
    if what == "wrapped":
        for name in ("__call__", "of_labels"):
            setattr(Own, name, wraps(getattr(NetDenoiser, name))(getattr(Own, name)))
    if what == "NaN":
        with torch.no_grad():
            net.positions[:] = torch.nan
    ask(NetDenoiser(network(label_heads=False)), tokens)
    with pytest.raises(UserError):
        ask(NetDenoiser(net) if what == "NaN" else Own(net), tokens)
