"""The transformer denoiser and its wrapper, against what any denoiser must satisfy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mdlm_cfg.chain.masking import copy_unmasked, mask_uniform, stratified_counts
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.nets.patches import patchify, unpatchify
from mdlm_cfg.nets.transformer import attention
from mdlm_cfg.nets.wrapper import of_labels

K = 3
SMALL = {"width": 16, "depth": 1, "num_heads": 2}
NETS = {
    "toy": {"num_tokens": 5, "grid_shape": (4,), "width": 32, "depth": 2, "num_heads": 4},
    "patched line": SMALL | {"num_tokens": 3, "grid_shape": (6,), "patch_size": 2},
    "volume": SMALL | {"num_tokens": 2, "grid_shape": (2, 4, 2), "patch_size": 2},
    "whole grid": SMALL | {"num_tokens": 2, "grid_shape": (3, 4), "patch_size": [3, 4]},
    "image": SMALL
    | {"num_tokens": 2, "grid_shape": (8, 4), "patch_size": 4, "width": 32, "depth": 2, "stem_channels": 8},
    "sequence": SMALL | {"num_tokens": 5, "grid_shape": (12,), "patch_size": 4, "stem_channels": 6, "stem_depth": 2},
    "grey image": SMALL
    | {"num_tokens": 7, "grid_shape": (6, 6), "patch_size": 3, "num_heads": 1, "stem_channels": 4, "stem_depth": 2},
}
NETS |= {f"{name} with label heads": NETS[name] | {"label_heads": True} for name in ("patched line", "grey image")}
NETS["image with all heads"] = NETS["image"] | {"label_heads": True, "class_head": True}


def make(name: str, seed: int = 0, trained: bool = True) -> GridTransformer:
    """A net; `trained` moves every parameter off its initial value, so that no layer is still zero."""
    torch.manual_seed(seed)
    net = GridTransformer(num_classes=K, **NETS[name])
    if trained:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return net


def states(net: GridTransformer, num: int = 16, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Clean data, partial states with 1..D masks, and classes with the null class among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(net.num_tokens, (num, net.num_dims), generator=generator)
    counts = stratified_counts(num, net.num_dims, generator)
    tokens = mask_uniform(x, counts, net.num_tokens, generator)
    return x, tokens, torch.arange(num) % (K + 1)


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> GridTransformer:
    return make(request.param)


def test_masked_rows_normalise_and_unmasked_rows_are_copied(net: GridTransformer) -> None:
    x, tokens, classes = states(net)
    log_probs = net(tokens, classes)
    assert log_probs.shape == (*tokens.shape, net.num_tokens) and log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.logsumexp(-1), torch.zeros(tokens.shape), atol=1e-5, rtol=0)
    unmasked = tokens != net.num_tokens
    assert torch.equal(log_probs[unmasked].exp(), nn.functional.one_hot(x, net.num_tokens)[unmasked].float())
    assert torch.isfinite(log_probs[~unmasked]).all()


@pytest.mark.parametrize("name", NETS)
def test_one_step_reaches_every_parameter_by_the_second(name: str) -> None:
    net = make(name, trained=False)
    x, tokens, classes = states(net, num=64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        log_probs = net(tokens, classes)
        losses.append(-log_probs.gather(-1, x[..., None]).sum() / x.numel())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[2] < losses[0]
    for label, parameter in net.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, label


def test_class_changes_the_output_and_none_is_the_null_class(net: GridTransformer) -> None:
    _, tokens, _ = states(net)
    of_class = [net(tokens, torch.full((len(tokens),), k)) for k in range(K + 1)]
    for k in range(K):
        assert not torch.allclose(of_class[k], of_class[K])
    assert torch.equal(net(tokens, None), of_class[K])


def test_several_labels_at_once_are_those_one_by_one(net: GridTransformer) -> None:
    _, tokens, classes = states(net)
    labels = torch.stack([classes, torch.full_like(classes, K)], dim=1)
    found = of_labels(net, tokens, labels)
    for place, asked in enumerate(labels.T):
        torch.testing.assert_close(found[:, place], net(tokens, asked))
    every = net.under_labels(tokens)
    torch.testing.assert_close(every[:, K], net(tokens, None))
    for together in (every.take_along_dim(labels[:, :, None, None], dim=1), net.under_labels(tokens, labels)):
        torch.testing.assert_close(together, found)


def test_with_a_class_head_the_null_class_is_the_mixture_of_the_classes() -> None:
    net = make("image with all heads")
    _, tokens, _ = states(net)
    shares = net.class_log_probs(nn.functional.one_hot(tokens, net.num_tokens + 1)).exp()
    classes = torch.stack([net(tokens, torch.full((len(tokens),), k)).exp() for k in range(K)], dim=1)
    mixture = (shares[:, :, None, None] * classes).sum(dim=1)
    torch.testing.assert_close(net(tokens, None).exp(), mixture, atol=1e-6, rtol=1e-4)


def test_every_unmasked_coordinate_is_seen_from_every_masked_one(net: GridTransformer) -> None:
    empty = torch.full((1, net.num_dims), net.num_tokens)
    base = net(empty, None)
    for i in range(net.num_dims):
        for value in range(2):
            tokens = empty.clone()
            tokens[0, i] = value
            change = (net(tokens, None) - base).abs().amax(-1)[0]
            others = torch.arange(net.num_dims) != i
            assert (change[others] > 1e-7).all(), f"coordinate {i} set to {value} is not seen everywhere"


def test_masked_coordinates_hide_their_data(net: GridTransformer) -> None:
    x, tokens, classes = states(net)
    other = torch.where(tokens == net.num_tokens, (x + 1) % net.num_tokens, x)
    again = torch.where(tokens == net.num_tokens, net.num_tokens, other)
    assert torch.equal(net(again, classes), net(tokens, classes))


@pytest.mark.parametrize(
    ("grid", "patch"),
    [
        ((6,), (1,)),
        ((6,), (3,)),
        ((4, 6), (2, 2)),
        ((2, 4, 6), (2, 2, 2)),
        ((3, 3), (3, 3)),
        ((4, 6), (1, 3)),
        ((3, 4), (3, 4)),
    ],
)
def test_patchify_is_inverted_and_keeps_neighbours_together(grid: tuple[int, ...], patch: tuple[int, ...]) -> None:
    x = torch.randn(2, *grid, 5)
    patches = patchify(x, patch)
    assert torch.equal(unpatchify(patches, grid, patch), x)
    corner = x[(slice(None), *map(slice, patch))]
    assert torch.equal(patches[:, 0], corner.flatten(1))


@pytest.mark.parametrize(
    ("grid", "patch"),
    [((28, 28), (7, 7)), ((32, 24), (8, 8)), ((9, 10), (3, 5)), ((13, 11), (1, 1)), ((300,), (4,)), ((30,), (3,))],
)
def test_a_patch_is_chosen_that_divides_the_grid(grid: tuple[int, ...], patch: tuple[int, ...]) -> None:
    assert GridTransformer(2, grid, 3, patch_size=None, width=8, num_heads=1, depth=0).patch == patch


def test_plain_attention_is_the_fused_one() -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(attention(q, k, v), nn.functional.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"patch_size": 3}, "patch_size 3"),
        ({"patch_size": [2, 2]}, "patch_size 2"),
        ({"patch_size": 0}, "patch_size 0"),
        ({"patch_size": None, "grid_shape": (29, 31)}, r"\(29, 31\).*\b899\b.*\b256\b.*net\.patch_size"),
        ({"grid_shape": ()}, r"grid_shape \(\)"),
        ({"num_heads": 5}, "num_heads 5"),
        ({"num_tokens": 1}, r"num_tokens.*\b2\b.*\b1\b"),
        ({"num_classes": 0}, r"num_classes.*\b1\b.*\b0\b"),
        ({"depth": -1}, r"depth.*\b0\b.* -1\b"),
        ({"mlp_ratio": 0.0}, "mlp_ratio 0.0"),
        ({"stem_channels": 4, "grid_shape": (2, 2, 2)}, r"stem_channels.*\(2, 2, 2\).*stem_channels=0"),
    ],
)
def test_bad_arguments_are_named(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridTransformer(**{"num_classes": K, **NETS["toy"], **changed})


def test_net_denoiser_agrees_with_the_net_whatever_the_batches(net: GridTransformer) -> None:
    x, tokens, classes = states(net)
    whole = NetDenoiser(net)(tokens, classes)
    assert whole.dtype == torch.float64 and not whole.requires_grad and not whole.is_inference()
    torch.testing.assert_close(whole.logsumexp(-1), torch.zeros(tokens.shape).double(), atol=1e-14, rtol=0)
    torch.testing.assert_close(whole, net(tokens, classes).double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(NetDenoiser(net, batch_size=3)(tokens, classes), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole, copy_unmasked(whole, tokens), atol=0, rtol=0)
    torch.testing.assert_close(NetDenoiser(net)(tokens), NetDenoiser(net)(tokens, torch.full((len(x),), K)))
    assert NetDenoiser(net)(tokens[:0], classes[:0]).shape == (0, net.num_dims, net.num_tokens)


def test_net_denoiser_in_bf16_is_close(net: GridTransformer) -> None:
    _, tokens, classes = states(net)
    exact = NetDenoiser(net)(tokens, classes).exp()
    rough = NetDenoiser(net, bf16=True)(tokens, classes).exp()
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0)
    assert not torch.equal(rough, exact)


def test_net_denoiser_evaluates_in_eval_mode_and_leaves_every_mode_alone(net: GridTransformer) -> None:
    net.train()
    net.blocks[0].eval()  # a frozen part
    net.norm = nn.Sequential(net.norm, nn.Dropout(0.5))
    before = [module.training for module in net.modules()]
    _, tokens, classes = states(net)
    denoiser = NetDenoiser(net)
    assert torch.equal(denoiser(tokens, classes), denoiser(tokens, classes))
    assert [module.training for module in net.modules()] == before


def test_net_denoiser_refuses_an_empty_batch_size(net: GridTransformer) -> None:
    with pytest.raises(ValueError, match="batch_size = 0"):
        NetDenoiser(net, batch_size=0)
