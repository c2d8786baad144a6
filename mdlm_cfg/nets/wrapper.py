"""A trained network as a `Denoiser`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from mdlm_cfg.chain.checks import constant_on, raise_where
from mdlm_cfg.chain.denoiser import (
    HALF_TYPES,
    check_query,
    check_shape_of,
    class_numbers,
    conditionals,
    eval_mode,
    name_state,
    normalizes,
)
from mdlm_cfg.chain.masking import copies_unmasked, copy_unmasked
from mdlm_cfg.chain.reductions import in_planes, unrolled_logsumexp
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import whole_number

NET_ROUNDING = 1e-3  # of the logarithm of a row's sum; float32 leaves 1e-6
HALF_ROUNDING = 5e-2  # the same for half-precision types


class _Wrapped:
    """A network that is called in batches, on the device of its parameters."""

    def __init__(self, net: nn.Module, batch_size: int) -> None:
        self.net = net
        self.batch_size = whole_number("batch_size", batch_size)
        self.num_tokens = cast(int, net.num_tokens)
        self.num_dims = cast(int, net.num_dims)
        self.num_classes = cast(int, net.num_classes)

    @property
    def device(self) -> torch.device:
        """The network's device: tokens that are there already are not moved."""
        return next(self.net.parameters(), torch.empty(0)).device


class NetDenoiser(_Wrapped):
    """Wraps a network `(tokens, classes) -> log-probs (B, D, N)`: float64 where the tokens are, no gradients.

    Rows are normalised again in float64: a float32 row sums to 1 only to 1e-7, and guidance raises it to the
    power w. The first output must be log-probabilities to about 1e-3 (5e-2 for half-precision types).
    Splitting into batches changes nothing but the rounding of float32 products.

    Args:
        net: has `num_tokens`, `num_dims` and `num_classes`; it is evaluated where its parameters are, in eval
            mode, and left in the mode it was in.
        batch_size: the most rows per call of the network: partial states, or, without label heads, one for each state
            and label.
        bf16: run the network's products in bfloat16; log-probabilities are then good to about 1e-2.

    Raises:
        UserError: batch_size < 1.
    """

    def __init__(self, net: nn.Module, batch_size: int = 1024, bf16: bool = False) -> None:
        super().__init__(net, batch_size)
        self.bf16 = bf16
        self._has_answered = False
        self._together: Callable[..., Tensor] | None = getattr(net, "under_labels", None)
        if not has_label_heads(net) and not copies_unmasked.is_kept_by(net.forward):
            self._together = None  # a user-defined forward may differ from an inherited `under_labels`
        functions = [net.forward, *([] if self._together is None else [self._together])]
        self._is_copied = all(map(copies_unmasked.is_kept_by, functions))

    @property
    def rounding(self) -> float:
        """The relative rounding of the network's output, see `mdlm_cfg.chain.denoiser.rounding_of`."""
        types = [torch.bfloat16] if self.bf16 else [p.dtype for p in self.net.parameters() if p.is_floating_point()]
        return max(torch.finfo(one).eps for one in types or [torch.float32])

    @normalizes
    def __call__(self, tokens: Tensor, classes: Tensor | None = None) -> Tensor:
        """float64 log-probabilities (B, D, N) on the device of the tokens, see `Denoiser`.

        Raises:
            UserError: tokens on a device that has no float64.
        """
        if tokens.device.type == "mps":
            raise UserError(
                "mps has no float64, in which log-probabilities are returned: move network and tokens to cpu"
            )
        check_query(self, tokens, classes)
        if classes is None:
            classes = tokens.new_full((len(tokens),), self.num_classes)
        return self._normalized(self._output(self.net, tokens.clone(), classes.clone(), self.batch_size), tokens)

    @normalizes
    def of_labels(self, tokens: Tensor, labels: Sequence[int]) -> Tensor:
        """The same partial states under several labels, float64 (L, B, D, N), see `Denoiser`.

        A network with label heads is called once for each partial state, any other once for each label too; in a
        `GridTransformer` the convolutions that see no label are still computed once.
        """
        check_query(self, tokens, None)
        each = constant_on(tuple(class_numbers(labels, self.num_classes)), tokens.device, torch.int64)
        if self._together is not None:
            # without label heads every label is a row
            size = self.batch_size if has_label_heads(self.net) else max(1, self.batch_size // len(labels))
            answers = self._output(self._together, tokens.clone(), each.repeat(len(tokens), 1), size).transpose(0, 1)
        else:
            rows = torch.cat([tokens] * len(labels)), each[:, None].expand(-1, len(tokens)).flatten()
            answers = self._output(self.net, *rows, self.batch_size).unflatten(0, (len(labels), len(tokens)))
        return self._normalized(answers, tokens)

    @torch.inference_mode()
    def _output(
        self, function: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, classes: Tensor, size: int
    ) -> Tensor:
        """The network's output on the device of the tokens, `size` rows a call; it may write over its arguments."""
        device = self.device
        given = tokens.to(device), classes.to(device)
        with eval_mode(self.net), _precision(device, self.bf16):
            parts = [given] if len(tokens) <= size else list(zip(*(part.split(size) for part in given), strict=True))
            answers = [function(*part) for part in parts]
        for part, answer in zip(parts, answers):
            expected = (len(part[0]), *getattr(answer, "shape", ())[1:-2], self.num_dims, self.num_tokens)
            check_shape_of(answer, expected, "the network of ")
        return (answers[0] if len(answers) == 1 else torch.cat(answers)).to(tokens.device)

    def _normalized(self, log_probs: Tensor, tokens: Tensor) -> Tensor:
        """Outputs (..., B, D, N) normalised in float64, with the rows of unmasked coordinates copied."""
        tolerance = HALF_ROUNDING if log_probs.dtype in HALF_TYPES or self.bf16 else NET_ROUNDING
        log_probs = in_planes(log_probs, copy=True)
        totals = unrolled_logsumexp(log_probs, dim=-1)
        if not self._has_answered and len(tokens):
            self._check_sums(totals, tokens, tolerance)
        log_probs -= totals[..., None]
        if self._is_copied:
            return log_probs
        return copy_unmasked(log_probs, tokens, in_place=True)

    def _check_sums(self, totals: Tensor, tokens: Tensor, tolerance: float) -> None:
        """Raise UserError for rows that are no log-probabilities, such as probabilities: normalising would hide them.

        Args:
            totals: the logarithms of their sums, (..., B, D); NaN is reported later.
        """
        wrong = (totals.abs() > tolerance) & (tokens == self.num_tokens)

        def explain(row: int, wrong: Tensor, totals: Tensor, state: Tensor) -> str:
            i = int(wrong.int().argmax())
            return (
                f"the network {type(self.net).__name__} returns a row whose exponentials sum to "
                f"{float(totals[i].exp()):.6g} for coordinate {i + 1} of the partial state "
                f"{name_state(state.tolist(), self.num_tokens)}: it must return log-probabilities, such as "
                "logits.log_softmax(-1)"
            )

        for own, sums in zip(wrong.reshape(-1, *tokens.shape), totals.reshape(-1, *tokens.shape), strict=True):
            raise_where(own, explain, own, sums, tokens)
        self._has_answered = True


class NetClassifier(_Wrapped):
    """Wraps the class head of a network as a classifier of partial states, with float64 output.

    Args:
        net: has `class_log_probs`, (B, D, N + 1) one-hot rows to log-probabilities (B, K), and the attributes of a
            denoising network. It is evaluated where its parameters are, in eval mode, and left in the mode it was in.
        batch_size: most partial states per call of the network.

    Raises:
        UserError: a network that has no class head, or batch_size < 1.
    """

    def __init__(self, net: nn.Module, batch_size: int = 1024) -> None:
        if not has_class_head(net):
            raise UserError("the network has no class head: train it with net.class_head=true objective=classifier")
        super().__init__(net, batch_size)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Log-probabilities (B, K) of partial states, int64 (B, D), on the device of the tokens."""
        one_hot = torch.nn.functional.one_hot
        with torch.no_grad():
            return torch.cat([self.of_one_hot(one_hot(x, self.num_tokens + 1)) for x in tokens.split(self.batch_size)])

    def of_one_hot(self, one_hot: Tensor) -> Tensor:
        """Log-probabilities (B, K) from (B, D, N + 1), the mask last; with gradients."""
        with eval_mode(self.net):
            class_log_probs = cast(Callable[[Tensor], Tensor], self.net.class_log_probs)
            log_probs = class_log_probs(one_hot.to(self.device, torch.float32)).to(one_hot.device, torch.float64)
        return log_probs.log_softmax(dim=-1)


def has_class_head(net: object) -> bool:
    """Whether a network predicts log p(class | x_U)."""
    return callable(getattr(net, "class_log_probs", None)) and getattr(net, "class_out", True) is not None


def has_label_heads(net: object) -> bool:
    """Whether a network computes several labels in one pass, by `under_labels`, as `GridTransformer` does."""
    return bool(getattr(net, "label_heads", False))


def of_labels(net: Callable[..., Tensor], tokens: Tensor, labels: Tensor | None) -> Tensor:
    """log p(x_i = v | x_U, z) under several labels of each partial state, (B, L, D, N); with gradients.

    Args:
        net: (tokens, classes) -> log-probs (B, D, N). With label heads it is called once for each partial state.
        tokens: int64 (B, D).
        labels: int64 (B, L), the null class included; None is every label, for label heads only.
    """
    if not has_label_heads(net):
        assert labels is not None
        num = labels.shape[1]
        return net(tokens.repeat(num, 1), labels.T.flatten()).unflatten(0, (num, -1)).transpose(0, 1)
    return cast(Callable[..., Tensor], net.under_labels)(tokens, labels)  # type: ignore[attr-defined]


def check_network(net: object, name: str) -> None:
    """Raise UserError unless an object is a network that denoises, as far as one call of it can tell.

    Args:
        net: is called on the all-masked state under every label, as `NetDenoiser` calls it.
        name: its name in messages.
    """
    if not isinstance(net, nn.Module):
        raise UserError(f"{name} makes a {type(net).__name__}: a network must be a torch.nn.Module")
    missing = [part for part in ("num_tokens", "num_dims", "num_classes") if not hasattr(net, part)]
    if missing:
        raise UserError(
            f"{name} has no attribute {missing[0]}: a network must have num_tokens, num_dims and num_classes"
        )
    refuse_unregistered(net, name)
    refuse_odd_tensors(net, name)
    k = cast(int, net.num_classes)
    tokens = torch.full((k + 1, cast(int, net.num_dims)), cast(int, net.num_tokens))
    classes = torch.arange(k + 1)
    with torch.no_grad(), eval_mode(net):
        net(tokens, classes)  # not in inference mode: training uses what it keeps of its first call
    conditionals(NetDenoiser(net), tokens, classes)


def refuse_unregistered(net: nn.Module, name: str) -> None:
    """Raise UserError where a module has parameters in a plain list or dict: neither trained nor saved with it."""
    registered = set(map(id, net.parameters()))
    for module in net.modules():
        for key, value in vars(module).items():
            held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
            own = [one for one in held if isinstance(one, nn.Parameter)]
            own += [part for one in held if isinstance(one, nn.Module) for part in one.parameters()]
            if any(id(part) not in registered for part in own):
                raise UserError(
                    f"{name} holds parameters in a plain {type(value).__name__}, {key}, so torch would neither train "
                    "nor save them: use nn.ModuleList, nn.ModuleDict or nn.ParameterList"
                )


def refuse_odd_tensors(net: nn.Module, name: str) -> None:
    """Raise UserError for parameters and buffers that cannot be averaged, copied into, or compared byte by byte."""
    for key, value in (*net.named_parameters(), *net.named_buffers()):
        if nn.parameter.is_lazy(value):
            raise UserError(f"{name} has {key}, of a lazy layer: give the layer its sizes, or call the network once")
        is_plain = value.layout == torch.strided and not (value.is_meta or value.is_quantized)
        if not is_plain or any(step == 0 and size > 1 for step, size in zip(value.stride(), value.shape)):
            raise UserError(
                f"{name} has {key}, which is sparse, quantised, expanded or without data: parameters and buffers must "
                "be plain tensors; use to_dense() or clone(), or make it from one in forward"
            )


def _precision(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """Products in bfloat16 or not, whatever the caller's autocast setting."""
    if bf16 or torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)
    return nullcontext()
