"""A bidirectional, time-agnostic transformer denoiser on a grid of coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdlm_cfg.chain.masking import copies_unmasked, copy_unmasked
from mdlm_cfg.nets.convolutions import CONVOLUTIONS, ConvHead, ConvStem, start_at_zero
from mdlm_cfg.nets.patches import fitting_patch, patchify, unpatchify
from mdlm_cfg.support.errors import UserError

# On a CPU the fused attention's backward pass is the slower one for sequences up to about this long.
PLAIN_ATTENTION_UP_TO = 128


class GridTransformer(nn.Module):
    """log p_theta(x_i = v | x_U, z) for all coordinates i of a grid at once.

    One-hot tokens (the mask is one more channel), optionally a convolutional stem, patches, pre-norm
    transformer blocks over the patches, un-patching, and optionally the stem added back and a convolutional
    head. There is no time input: the optimal denoiser does not depend on it (theory, section 1). The mask is
    never predicted, and unmasked coordinates are copied.

    Args:
        num_tokens: N; token N is the mask.
        grid_shape: layout of the D = prod(grid_shape) coordinates, row-major: (5,) for a toy, (28, 28) for an
            image.
        num_classes: K; class K is the null class (no class).
        patch_size: side of a patch, or one side per axis; the transformer sees prod(grid_shape / patch_size) tokens.
            None takes the largest sides that divide the grid's, up to 8, and up to 4 on a line.
        width: features of a patch.
        depth: transformer blocks.
        num_heads: attention heads; must divide `width`.
        mlp_ratio: hidden width of a block's MLP, over `width`.
        stem_channels: features of a coordinate in the convolutions (3x3, or 3 along a line) around the transformer,
            which see details finer than a patch; 0 for none (otherwise the grid must have one or two axes).
        stem_depth: residual convolution blocks in the stem, and again in the head.
        class_head: whether it also predicts log p(class | x_U), for classifier guidance (`class_log_probs`).
        label_heads: whether the blocks and convolutions see only the partial state: they give the logits of the null
            class, and a linear head of the patches for each class gives what is added to them, the log-ratio that
            guidance amplifies. One pass then serves several labels (`under_labels`). With a class head too, the null
            class is the mixture of the classes by that head, p = sum_z q(z | x_U) p_z: the ratio is at most 1 / q.

    Raises:
        UserError: an argument out of its range.
    """

    def __init__(
        self,
        num_tokens: int,
        grid_shape: tuple[int, ...],
        num_classes: int,
        *,
        patch_size: int | Sequence[int] | None = 1,
        width: int = 128,
        depth: int = 3,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        stem_channels: int = 0,
        stem_depth: int = 1,
        class_head: bool = False,
        label_heads: bool = False,
    ) -> None:
        super().__init__()
        grid_shape = tuple(int(side) for side in grid_shape)
        if patch_size is None:
            patch_size = fitting_patch(grid_shape)
        patch = (patch_size,) * len(grid_shape) if isinstance(patch_size, int) else tuple(patch_size)
        _check_at_least(1, num_classes=num_classes, width=width, num_heads=num_heads)
        _check_at_least(0, depth=depth, stem_channels=stem_channels, stem_depth=stem_depth)
        _check_at_least(2, num_tokens=num_tokens)
        _check_grid(grid_shape, patch, bool(stem_channels))
        if width % num_heads:
            raise UserError(f"width {width} must be a multiple of num_heads {num_heads}")
        if mlp_ratio * width < 1:
            raise UserError(f"mlp_ratio {mlp_ratio} must be at least 1/width = {1 / width}")

        self.num_tokens = num_tokens
        self.num_classes = num_classes
        self.num_dims = math.prod(grid_shape)
        self.grid_shape = grid_shape
        self.patch = patch
        self.label_heads = label_heads

        patch_dims = math.prod(patch)
        num_patches = self.num_dims // patch_dims
        axes = len(grid_shape)
        self.stem = ConvStem(num_tokens + 1, stem_channels, stem_depth, axes) if stem_channels else None
        self.patch_in = nn.Linear(patch_dims * (stem_channels or num_tokens + 1), width)
        self.positions = nn.Parameter(0.02 * torch.randn(num_patches, width))
        self.classes = None if label_heads else nn.Embedding(num_classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        # per coordinate: the log-ratios of the classes, if they have heads, and the inputs of its own logits
        self.outputs = (num_classes * num_tokens if label_heads else 0, stem_channels or num_tokens)
        self.patch_out = nn.Linear(width, patch_dims * sum(self.outputs))
        self.head = ConvHead(stem_channels, num_tokens, stem_depth, axes) if stem_channels else None
        self.class_out = nn.Linear(width, num_classes) if class_head else None
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=0.02)

    @copies_unmasked
    def forward(self, tokens: Tensor, classes: Tensor | None = None) -> Tensor:
        """float32 log-probabilities (B, D, N), see `Denoiser`; `classes` None is the null class for all."""
        if classes is None:
            classes = tokens.new_full((len(tokens),), self.num_classes)
        if self.label_heads:
            return self.under_labels(tokens, classes[:, None])[:, 0]
        logits, _, _ = self._logits(tokens, classes)
        return copy_unmasked(logits.float().log_softmax(-1), tokens)

    @copies_unmasked
    def under_labels(self, tokens: Tensor, labels: Tensor | None = None) -> Tensor:
        """float32 log-probabilities under several labels of each partial state, (B, L, D, N).

        With label heads it takes one pass; without, only the stem, which sees no label, is computed once for a state.

        Args:
            tokens: int64 (B, D).
            labels: int64 (B, L), the null class included; None is every label, the null class last.
        """
        if not self.label_heads:
            if labels is None:
                labels = torch.arange(self.num_classes + 1, device=tokens.device).expand(len(tokens), -1)
            logits, _, _ = self._logits(tokens, labels.T.flatten())
            log_probs = logits.float().log_softmax(-1).unflatten(0, (-1, len(tokens)))
            return copy_unmasked(log_probs, tokens).transpose(0, 1)
        base, ratios, h = self._logits(tokens, None)
        ratios = ratios.unflatten(2, (self.num_classes, -1))
        if self.class_out is not None:
            every = _with_mixture((base[:, None] + ratios.transpose(1, 2)).float().log_softmax(-1), self._of_classes(h))
            log_probs = every if labels is None else every.take_along_dim(labels[:, :, None, None], dim=1)
        else:
            ratios = F.pad(ratios, (0, 0, 0, 1))  # the null class adds nothing
            if labels is not None:
                ratios = ratios.take_along_dim(labels[:, None, :, None], dim=2)
            log_probs = (base[:, None] + ratios.transpose(1, 2)).float().log_softmax(-1)
        return copy_unmasked(log_probs, tokens[:, None])

    def class_log_probs(self, one_hot: Tensor) -> Tensor:
        """float32 log-probabilities (B, K) of the class, from the mean of the patches' features under no class.

        Args:
            one_hot: (B, D, N + 1), the mask last; also between the discrete states, for gradients.

        Raises:
            UserError: it has no class head.
        """
        if self.class_out is None:
            raise UserError("the network has no class head: train it with net.class_head=true objective=classifier")
        classes = torch.full((len(one_hot),), self.num_classes, device=one_hot.device)
        return self._of_classes(self._features(one_hot, classes)[0])

    def _of_classes(self, h: Tensor) -> Tensor:
        """log q(class | x_U), float32 (B, K), from the features of the patches."""
        assert self.class_out is not None
        return self.class_out(h.mean(dim=1)).float().log_softmax(-1)

    def _logits(self, tokens: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the coordinates, (B, D, N), what the heads of the classes add to them, and the patches' features.

        The second is (B, D, K N), or (B, D, 0) without heads.
        """
        one_hot = tokens[..., None] == torch.arange(self.num_tokens + 1, device=tokens.device)
        h, pixels = self._features(one_hot, classes)
        ratios, cells = unpatchify(self.patch_out(h), self.grid_shape, self.patch).split(self.outputs, dim=-1)
        logits = cells if self.head is None else self.head(cells + pixels)
        return logits.flatten(1, -2), ratios.flatten(1, -2), h

    def _features(self, one_hot: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Normalised features of the patches (B, patches, width), and the pixels or the stem's features of them."""
        pixels = one_hot.to(self.positions.dtype).unflatten(1, self.grid_shape)
        if self.stem is not None:
            pixels = self.stem(pixels)
        if classes is not None and len(classes) > len(pixels):  # several labels of the same states
            pixels = torch.cat([pixels] * (len(classes) // len(pixels)))
        h = self.patch_in(patchify(pixels, self.patch)) + self.positions
        if self.classes is not None:
            h = h + self.classes(classes)[:, None]
        for block in self.blocks:
            h = block(h)
        return self.norm(h), pixels


def _with_mixture(log_probs: Tensor, log_shares: Tensor) -> Tensor:
    """ln p_z of every class, and last ln sum_z q_z p_z: (B, K + 1, D, N) from (B, K, D, N) and ln q (B, K)."""
    mixture = (log_probs + log_shares[:, :, None, None]).logsumexp(dim=1, keepdim=True)
    return torch.cat([log_probs, mixture], dim=1)


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to its input; both start as the identity."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(mlp_ratio * width)
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(width)
        self.norm_mlp = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, hidden)
        self.mlp_out = nn.Linear(hidden, width)
        start_at_zero(self.attention_out)
        start_at_zero(self.mlp_out)

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.attention_out(self._mixed(self.norm_attention(h)))
        return h + self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(h))))

    def _mixed(self, h: Tensor) -> Tensor:
        """The values of the patches, mixed by attention; a patch that is alone attends to itself."""
        if h.shape[1] == 1:
            return F.linear(h, *(part.chunk(3)[2] for part in (self.qkv.weight, self.qkv.bias)))
        qkv = self.qkv(h).unflatten(-1, (3, self.num_heads, -1))
        return attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(-2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, each (B, heads, length, d): plain where that is the faster way to train."""
    if q.device.type == "cpu" and q.shape[-2] <= PLAIN_ATTENTION_UP_TO:
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


def _check_grid(grid_shape: tuple[int, ...], patch: tuple[int, ...], has_stem: bool) -> None:
    sides_match = len(patch) == len(grid_shape) > 0 and min(*grid_shape, *patch) >= 1
    if not sides_match or any(side % part for side, part in zip(grid_shape, patch)):
        shown = patch[0] if len(set(patch)) == 1 else patch
        raise UserError(f"grid_shape {grid_shape} must have sides that patch_size {shown} divides")
    if has_stem and len(grid_shape) not in CONVOLUTIONS:
        raise UserError(f"stem_channels need a grid of one or two axes, not {grid_shape}; use stem_channels=0")


def _check_at_least(low: int, **values: int) -> None:
    for name, value in values.items():
        if value < low:
            raise UserError(f"{name} must be at least {low}, not {value}")
