"""The joint optimizer does what its two parts do."""

from __future__ import annotations

import copy

import torch

from mdlm_cfg.nets import GridTransformer
from mdlm_cfg.nets.optimizer import MuonAdamW, build_optimizer, is_matrix


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
    ours, theirs = small_net(), small_net()
    frozen = [p for n, p in theirs.named_parameters() if is_matrix(n, p)]
    joint = MuonAdamW(ours, 1e-3, 0.02, (0.9, 0.99), 0.01)
    others = [p for n, p in theirs.named_parameters() if not is_matrix(n, p)]
    parts = [
        torch.optim.Muon(frozen, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(others, 1e-3, (0.9, 0.99), 1e-8, 0.01),
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
    optimizer = build_optimizer(net, 1e-3, 0.02, [0.9, 0.99], 0.01)
    train(net, optimizer, 3)
    weights, state = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(net, optimizer, 3, seed=1)
    again = small_net()
    again.load_state_dict(weights)
    resumed = build_optimizer(again, 1e-3, 0.02, [0.9, 0.99], 0.01)
    resumed.load_state_dict(state)
    train(again, resumed, 3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters()))


def test_a_learning_rate_of_zero_stops_both_parts():
    net = small_net()
    optimizer = build_optimizer(net, 1e-3, 0.02, [0.9, 0.99], 0.0)
    before = copy.deepcopy(net.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(net, optimizer, 2)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
