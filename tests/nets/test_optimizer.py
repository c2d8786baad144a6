"""The joint optimiser does what its two parts do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mdlm_cfg.nets import GridTransformer
from mdlm_cfg.nets.muon import Muon, orthogonalized
from mdlm_cfg.nets.optimizer import MuonAdamW, adamw, is_matrix
from mdlm_cfg.support.errors import UserError


def small_net() -> GridTransformer:
    torch.manual_seed(0)
    return GridTransformer(3, (4,), 2, width=16, depth=2, num_heads=2)


def train(net, optimizer, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randint(0, 3, (32, 4), generator=generator)
        tokens = torch.where(torch.rand(32, 4, generator=generator) < 0.5, 3, x)
        loss = -net(tokens, x[:, 0] % 2).gather(2, x[..., None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_every_parameter_belongs_to_one_part():
    net = small_net()
    optimizer = MuonAdamW(net, 1e-3, 0.02, (0.9, 0.99), 0.0)
    counts = {name: sum(len(g["params"]) for g in part.param_groups) for name, part in optimizer.parts.items()}
    assert counts["muon"] == sum(is_matrix(n, p) for n, p in net.named_parameters()) == 2 * 4
    assert sum(counts.values()) == len(list(net.parameters()))


def test_the_rest_is_stepped_as_by_adamw_alone():
    ours = small_net()
    theirs = small_net()
    frozen = [p for n, p in theirs.named_parameters() if is_matrix(n, p)]
    joint = MuonAdamW(ours, 1e-3, 0.02, (0.9, 0.99), 0.01)
    others = [p for n, p in theirs.named_parameters() if not is_matrix(n, p)]
    parts = [
        Muon(frozen, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(others, 1e-3, (0.9, 0.99), 1e-8, 0.01, fused=True),
    ]

    class Both:
        def zero_grad(self):
            theirs.zero_grad()

        def step(self):
            for part in parts:
                part.step()

    train(ours, joint, 3)
    train(theirs, Both(), 3)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters()))


def test_saving_and_loading_goes_on_bitwise():
    net = small_net()
    optimizer = MuonAdamW(net, 1e-3, 0.02, [0.9, 0.99], 0.01)
    train(net, optimizer, 3)
    weights = copy.deepcopy(net.state_dict())
    state = copy.deepcopy(optimizer.state_dict())
    train(net, optimizer, 3, seed=1)
    again = small_net()
    again.load_state_dict(weights)
    resumed = MuonAdamW(again, 1e-3, 0.02, [0.9, 0.99], 0.01)
    resumed.load_state_dict(state)
    train(again, resumed, 3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters()))


def test_a_learning_rate_of_zero_stops_both_parts():
    net = small_net()
    optimizer = MuonAdamW(net, 1e-3, 0.02, [0.9, 0.99], 0.0)
    before = copy.deepcopy(net.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(net, optimizer, 2)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


# Muon's own iteration


def test_the_iteration_is_torchs_to_the_rounding_of_bfloat16():
    generator = torch.Generator().manual_seed(0)
    for shape in ((32, 32), (64, 16), (16, 64)):
        matrices = [torch.randn(shape, generator=generator) for _ in range(3)]
        ours, theirs = ([nn.Parameter(m.clone()) for m in matrices] for _ in range(2))
        mine = Muon(ours, lr=0.05, weight_decay=0.1, precision="float32")
        torchs = torch.optim.Muon(theirs, lr=0.05, weight_decay=0.1)
        for _ in range(4):
            for a, b in zip(ours, theirs):
                a.grad = torch.randn(shape, generator=generator)
                b.grad = a.grad.clone()
            mine.step()
            torchs.step()
        for a, b, start in zip(ours, theirs, matrices):
            moved = (b - start).norm()
            assert (a - b).norm() < 0.02 * moved  # bfloat16 keeps 8 bits


def test_singular_values_end_near_one_and_singular_vectors_stay():
    generator = torch.Generator().manual_seed(1)
    for rows, columns in ((24, 24), (48, 12), (12, 48)):
        matrices = torch.randn(5, rows, columns, generator=generator, dtype=torch.float64)
        u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
        s = torch.logspace(0, -2, s.shape[1], dtype=torch.float64).expand_as(s)
        found = orthogonalized(u @ torch.diag_embed(s) @ vh, torch.float64)
        inner = u.mT @ found @ vh.mT  # diagonal if the singular vectors are the same
        values = inner.diagonal(dim1=1, dim2=2)
        assert (inner - torch.diag_embed(values)).abs().max() < 1e-9
        assert values.min() > 0.4 and values.max() < 1.3
        assert (orthogonalized(u @ torch.diag_embed(s) @ vh) - found).abs().max() < 1e-4  # float32


def test_every_matrix_of_a_stack_is_iterated_alone():
    matrices = torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(2))
    matrices[2] *= 1e4
    matrices[3] = 0
    found = orthogonalized(matrices)
    for one, all_ in zip(matrices, found):
        assert torch.allclose(orthogonalized(one[None])[0], all_, atol=1e-6)
    assert bool(found.isfinite().all()) and bool((found[3] == 0).all())


@pytest.mark.parametrize("speedup", [0.1, 3.0])
def test_the_iterations_precision_is_the_devices_or_what_is_asked_for(speedup, monkeypatch):
    monkeypatch.setattr("mdlm_cfg.support.machine.bf16_speedup", lambda device: speedup)
    weight = nn.Parameter(torch.ones(2, 2))
    fast = torch.bfloat16 if speedup > 1 else torch.float32
    assert Muon([weight], 0.1).dtype(weight.device) == fast
    assert Muon([weight], 0.1, precision="bfloat16").dtype(weight.device) == torch.bfloat16
    with pytest.raises(UserError, match=r"optimizer\.precision 'half'.*auto, float32, bfloat16"):
        Muon([weight], 0.1, precision="half")


def test_a_network_without_matrices_and_the_state_of_another_optimizer_are_refused():
    with pytest.raises(UserError, match="optimizer=adamw"):
        MuonAdamW(nn.Linear(3, 3))
    with pytest.raises(UserError):
        MuonAdamW(small_net()).load_state_dict(adamw(small_net()).state_dict())
