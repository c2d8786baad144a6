"""The comparison with a peer: its loss, its network, equal time, and figures that are known of known networks."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from bench import peers
from mdlm_cfg import UserError
from mdlm_cfg.targets.toys import toy_2d_overlap
from mdlm_cfg.training.data import TargetData

N, D, K = 4, 400, 3


class Spy(nn.Module):
    """Answers by a function, and keeps what it was asked; what is not masked it gets wrong with certainty."""

    def __init__(self, shape: tuple[int, int, int], answer: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.num_tokens, self.num_dims, self.num_classes = shape
        self.answer = answer
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        self.asked = tokens, classes
        log_probs = self.answer(tokens, classes) + 0 * self.weight
        return torch.where((tokens == self.num_tokens)[..., None], log_probs, -1e4)


def test_the_loss_masks_a_share_cos_and_counts_masked_coordinates_alone() -> None:
    uniform = Spy((N, D, K), lambda tokens, classes: torch.full((*tokens.shape, N), -math.log(N)))
    x = torch.randint(N, (4000, D))
    loss = peers.maskgit_loss(uniform, x, torch.ones(4000, dtype=torch.int64), torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(math.log(N), abs=1e-5)
    tokens, classes = uniform.asked
    share = (tokens == N).double().mean(dim=1)
    # cos(pi u / 2) has the mean 2 / pi and the second moment 1 / 2
    assert abs(float(share.mean()) - 2 / math.pi) < 5 * math.sqrt((0.5 - 4 / math.pi**2) / 4000)
    assert abs(float((share**2).mean()) - 0.5) < 5 * math.sqrt(0.125 / 4000)
    assert bool(((tokens == x) | (tokens == N)).all()) and bool((share > 0).all())
    dropped = float((classes == K).double().mean())
    assert abs(dropped - 0.1) < 5 * math.sqrt(0.09 / 4000) and bool(((classes == K) | (classes == 1)).all())


def toy() -> TargetData:
    data = TargetData(toy_2d_overlap(), "toy_2d_overlap", batch_size=64)
    data.setup("fit")
    return data


def test_exact_conditionals_have_the_entropy_and_no_distance() -> None:
    data = toy()
    exact = Spy((16, 2, 2), toy_2d_overlap().denoiser())
    found = peers.likelihoods(exact, data, (data.test_x, data.test_classes), 1)
    assert found["NELBO"] == pytest.approx(2 * math.log(9), abs=1e-9)
    assert found["without class"] == pytest.approx(data.target.entropy(), abs=1e-9)
    assert max(value for name, value in found.items() if name.startswith("TV")) < 1e-12


class Small(nn.Module):
    """Called as `UVit2DModel` is: logits (B, N, H, W) that say where they are, and follow the class."""

    def __init__(self, *, vocab_size: int, codebook_size: int, hidden_size: int, **rest: object) -> None:
        super().__init__()
        self.values = codebook_size
        self.tokens = nn.Embedding(vocab_size, codebook_size)
        self.classes = nn.Linear(hidden_size, codebook_size)

    def forward(self, input_ids: Tensor, prompt: Tensor, pooled: Tensor, sizes: Tensor) -> Tensor:
        assert prompt.shape == (len(input_ids), 1, pooled.shape[1]) and sizes.shape == (len(input_ids), 1)
        places = torch.arange(input_ids[0].numel()).view(input_ids.shape[1:])
        marks = nn.functional.one_hot(places % self.values, self.values)
        return (self.tokens(input_ids) + self.classes(prompt[:, None]) + 100.0 * marks).permute(0, 3, 1, 2)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a tiny network in the peer's place."""
    monkeypatch.setitem(sys.modules, peers.PACKAGE, SimpleNamespace(UVit2DModel=Small))
    monkeypatch.setattr(peers, "version", lambda package: peers.PINNED)


@pytest.mark.parametrize("grid", [(6,), (2, 3)])
def test_coordinates_keep_their_order_in_the_peers_network(installed: None, grid: tuple[int, ...]) -> None:
    net = peers.PeerNet({"num_tokens": 6, "grid_shape": grid, "num_classes": K}, 8, 8, False)
    log_probs = net(torch.full((5, 6), 6), torch.arange(5) % (K + 1))
    assert log_probs.shape == (5, 6, 6)
    assert bool((log_probs.argmax(dim=2) == torch.arange(6)).all())
    assert torch.allclose(log_probs.exp().sum(dim=2), torch.ones(5, 6))


def test_training_takes_its_time_and_no_more(installed: None) -> None:
    contest = replace(peers.CONTESTS["toy_2d_overlap"], num_samples=10)
    ours, peer, both = peers.entries(contest)
    assert (peer.data.batch_size, both.data.batch_size) == (contest.batch_size, ours.data.batch_size)
    for entry in (ours, peer):
        begun = time.process_time()
        _, steps = peers.train(entry, 0.3)
        taken = time.process_time() - begun
        assert 0.3 <= taken < 0.3 + 2 * 0.3 / steps + 0.5 and steps > 2


def test_a_whole_comparison(
    installed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    brief = replace(peers.CONTESTS["toy_2d_overlap"], seconds=0.2, trial=0.05, num_samples=10)
    monkeypatch.setitem(peers.CONTESTS, "toy_2d_overlap", brief)
    peers.main(["toy_2d_overlap"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0][0] == "ours" and len(rows) == 3
    for row in rows:
        found = dict(zip(head[1:], row[1:], strict=True))
        rate = found.pop("lr")
        assert rate == "its own" if row is rows[0] else float(rate) in peers.RATES
        numbers = {name: float(value) for name, value in found.items()}
        assert numbers["NELBO"] >= 2 * math.log(9) - 1e-4  # a bound of the entropy
        assert all(0 <= value <= 1 for name, value in numbers.items() if name.startswith("TV"))
        assert numbers["samples/s"] > 0 and numbers["steps"] >= 1


def test_images_of_bytes_are_judged_by_their_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = torch.zeros(9, 6, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64)
    images = SimpleNamespace(batch_size=1, target=None, test_examples=lambda: examples)
    uniform = Spy((N, 6, K), lambda tokens, classes: torch.full((*tokens.shape, N), -math.log(N)))
    monkeypatch.setattr(peers, "train", lambda entry, seconds: (uniform, 1))
    contest = replace(peers.CONTESTS["mnist"], num_samples=2, sampler=peers.Sampler("first_hitting"))
    found = peers.judged(SimpleNamespace(data=images, rates=()), contest)  # type: ignore[arg-type]
    assert found["NELBO"] == pytest.approx(6 * math.log(N), abs=1e-6)  # float32
    assert found["+- NELBO"] == pytest.approx(0, abs=1e-6)


def test_the_best_rate_is_the_one_with_the_lowest_nelbo(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    nelbo = {1e-3: 3.0, 3e-3: 1.0, 1e-2: 2.0}
    monkeypatch.setattr(peers, "train", lambda entry, seconds, lr: (lr, 1))
    monkeypatch.setattr(peers, "likelihoods", lambda net, *rest: {"NELBO": nelbo[net]})
    ours, peer, _ = peers.entries(peers.CONTESTS["toy_2d_overlap"])
    assert peers.best_rate(peer, 1.0) == {"lr": 3e-3} and peers.best_rate(ours, 1.0) == {}


@pytest.mark.parametrize("found", [None, "0.1"])
def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    def version(package: str) -> str:
        if found is None:
            raise peers.PackageNotFoundError
        return found

    monkeypatch.setattr(peers, "version", version)
    with pytest.raises(UserError, match=peers.PINNED):
        peers.main(["mnist"])
