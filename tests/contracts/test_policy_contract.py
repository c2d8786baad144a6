"""What every unmasking policy promises: a new one inherits these tests by its entry in `POLICIES`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from helpers import Inconsistent, law_by_jumps, random_target
from torch import Tensor

from mdlm_cfg import Guidance, Sampler, likelihood, terminal_law
from mdlm_cfg.chain.policies import POLICIES, Policy
from mdlm_cfg.chain.policy_names import parse_policy
from mdlm_cfg.support.seeds import generator_for

NEG_INF = float("-inf")
D = 3
WRITTEN = [*POLICIES, "fixed_order(2,0,1)", "blocks(1|0,2)", "blocks(1,0|2; margin)", "entropy(temperature=0.5)"]
policies = pytest.mark.parametrize("written", WRITTEN)


def some_rates() -> tuple[Tensor, Tensor]:
    """log Z and log r of 50 partial states; some coordinates have nowhere to go, in one state all."""
    log_rho = 2 * torch.randn(50, D, 4, generator=generator_for("rates"), dtype=torch.float64)
    log_rho[torch.rand(50, D, generator=generator_for("none")) < 0.3] = NEG_INF
    log_rho[0] = NEG_INF
    log_z = log_rho.logsumexp(dim=-1)
    return log_z, (log_rho - log_z[..., None]).masked_fill(log_z[..., None] == NEG_INF, NEG_INF)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def choice(policy: Policy, log_z: Tensor, log_r: Tensor) -> Tensor:
    return policy.log_choice(log_z, lambda: log_r, torch.arange(D)).exp()


@policies
def test_it_is_a_distribution_over_what_can_move(written: str) -> None:
    log_z, log_r = some_rates()
    found = choice(parse_policy(written), log_z, log_r)
    moves = (log_z > NEG_INF).any(dim=-1)
    assert torch.allclose(found.sum(dim=-1), moves.double(), atol=1e-12)
    assert bool((found[log_z == NEG_INF] == 0).all())


@policies
def test_it_does_not_depend_on_what_other_states_are_asked_about(written: str) -> None:
    log_z, log_r = some_rates()
    policy = parse_policy(written)
    together = choice(policy, log_z, log_r)
    alone = torch.cat([choice(policy, log_z[i : i + 1], log_r[i : i + 1]) for i in range(len(log_z))])
    assert torch.equal(together, alone)


@policies
def test_consistent_conditionals_without_guidance_keep_their_law(written: str) -> None:
    # any order that depends on the partial state alone factorises the same joint
    target = random_target(3, D, 3, seed=12, zeros=0.4)
    law = terminal_law(target.denoiser(), Guidance(0.0), 1, policy=parse_policy(written))
    assert torch.allclose(law, target.class_pmfs[1], atol=1e-14)


@policies
def test_what_it_writes_is_read_as_itself(written: str) -> None:
    policy = parse_policy(written)
    assert parse_policy(str(policy)) == policy == copy.deepcopy(policy) == pickle.loads(pickle.dumps(policy))


def test_policies_with_other_names_are_others() -> None:
    assert len({parse_policy(written) for written in WRITTEN}) == len(WRITTEN)


def by_enumeration(denoiser: Inconsistent, policy: Policy, z: int) -> Tensor:
    """The law at w = 0, one coordinate at a time."""
    n = denoiser.num_tokens

    def jumps(state: tuple[int, ...]) -> Iterator[tuple[int, int, float]]:
        log_r = denoiser(torch.tensor([state]), torch.tensor([z]))[0]
        masked = torch.tensor([value == n for value in state])
        log_r = log_r.masked_fill(~masked[:, None], NEG_INF)
        first = choice(policy, log_r.logsumexp(dim=-1)[None], log_r[None])[0]
        for i, v in product(range(D), range(n)):
            if masked[i] and first[i] > 0:
                yield i, v, float(first[i] * log_r[i, v].exp())

    return law_by_jumps(n, D, jumps)


@policies
def test_its_law_is_the_sum_over_its_orders(written: str) -> None:
    denoiser = Inconsistent(3, D, 2, seed=4)
    policy = parse_policy(written)
    law = terminal_law(denoiser, Guidance(0.0), 0, policy=policy)
    assert torch.allclose(law, by_enumeration(denoiser, policy, 0), atol=1e-13)


def test_what_own_policies_and_jump_rules_do_to_their_arguments_changes_nothing() -> None:
    class Careful(Policy):
        def preference(self, log_z, log_r, coordinates):
            return None, 2 * log_z + log_r().exp().sum(dim=-1)

    class Careless(Policy):
        def preference(self, log_z, log_r, coordinates):
            weight = log_r().exp_().sum(dim=-1)
            return None, log_z.mul_(2).add_(weight)

    table = Inconsistent(3, D, 3, seed=4)
    guidance = Guidance(1.5)
    laws = [terminal_law(table, guidance, 1, policy=policy) for policy in (Careful(), Careless())]
    assert torch.equal(*laws)
    x = torch.tensor([[0, 1, 2]] * 5)
    uses = (
        lambda policy: Sampler("first_hitting", policy=policy).draw(table, guidance, 1, 50, seeded()),
        lambda policy: likelihood(table, x, 1, policy=policy, generator=seeded()).log_probs,
    )
    for use in uses:
        assert torch.equal(use(Careful()), use(Careless()))
    rules = (lambda log_z, u: 0 * log_z.exp() + u), (lambda log_z, u: log_z.exp_().mul_(0).add_(u))
    jumps = [Sampler("own", steps=3, jump=jump) for jump in rules]
    assert torch.equal(*[one.law(table, guidance, 1) for one in jumps])
    drawn = [one.draw(table, guidance, 1, 50, seeded()) for one in jumps]
    assert torch.equal(*drawn)
