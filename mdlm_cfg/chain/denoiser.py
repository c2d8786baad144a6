"""A denoiser: a map from a partial state and a class to log-probabilities. Everything else is a function of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MethodType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mdlm_cfg.chain.checks import Promise, constant_on, is_on_cpu, known_within, raise_where
from mdlm_cfg.chain.reductions import in_planes, unrolled_sum_exp
from mdlm_cfg.support.arguments import CHECKS
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.instantiate import calling
from mdlm_cfg.support.numeric import is_whole, whole_number

CPU = torch.device("cpu")
NEG_INF = float("-inf")
HALF_TYPES = (torch.float16, torch.bfloat16)
TOLERANCE = 1e-6  # how far from 1 a row of probabilities may sum: more than float32 rounding leaves
ROUNDING = 1e-14  # error up to which a row counts as normalised in float64: it is kept as it is, to the last bit
HALF_TOLERANCE = 1e-2  # the same for half-precision types
STEADY = 0.02  # TV above which two outputs for one state count as different: bfloat16 rounding leaves less
PROBED = 4  # partial states at which outputs are compared


normalizes = Promise()  # of a denoiser's methods: rows without NaN are in planes, and sum to 1 to float64 rounding


@runtime_checkable
class Denoiser(Protocol):
    """Conditionals log p(x_i = v | x_U, z) of a distribution on {0..N-1}^D with K classes.

    Time-agnostic: the optimal denoiser of masked diffusion does not depend on the noise time (theory, section 1).

    A denoiser that computes several labels at the cost of one may have a method `of_labels(tokens, labels)`: from
    partial states int64 (B, D) and labels, L numbers 0..K, to (L, B, D, N). Guidance then calls it once for a partial
    state; any other denoiser is given one row for each label (`conditionals_under`).
    """

    num_tokens: int  # N; the mask is token N
    num_dims: int  # D
    num_classes: int  # K; the null class is class K

    @property
    def device(self) -> torch.device:
        """The device of its tokens and output; samplers and laws use the same."""
        ...

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """Log-probabilities of every coordinate given the unmasked ones.

        Args:
            tokens: partial states, int64 (B, D), values 0..N with N the mask.
            classes: int64 (B,), values 0..K with K the null class; None is the null class for all.

        Returns:
            float64 (B, D, N): rows of masked coordinates are normalised log-probabilities (nats); rows of unmasked
            coordinates are copied: 0 at the token, -inf elsewhere.
        """
        ...


@dataclass(frozen=True)
class FunctionDenoiser:
    """Any function of (tokens, classes) as a denoiser: a plain function, or a module of your own.

    Args:
        function: (tokens int64 (B, D), classes int64 (B,) or None) -> log-probabilities (B, D, N), of any float type.
            A module is called in evaluation mode, and left in the mode it was in.
        num_tokens: N. num_dims: D. num_classes: K.
        device: the device on which the function expects tokens.
    """

    function: Callable[[Tensor, Tensor | None], Tensor]
    num_tokens: int
    num_dims: int
    num_classes: int
    device: torch.device = CPU

    def __post_init__(self) -> None:
        for name in ("num_tokens", "num_dims", "num_classes"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """See `Denoiser`."""
        check_query(self, tokens, classes)
        mode = eval_mode(self.function) if isinstance(self.function, nn.Module) else nullcontext()
        with mode, calling(getattr(self.function, "__name__", type(self.function).__name__)):
            return self.function(tokens, classes)


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every submodule's own mode is restored afterwards."""
    training = _in_training(net)
    if training:
        net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _in_training(net: nn.Module) -> list[nn.Module]:
    """The modules of a network in training mode, in a fifth of the time of `net.modules()`, which names them."""
    found: list[nn.Module | None] = [net]
    for module in found:
        if module is not None and module._modules:
            found.extend(module._modules.values())
    return [module for module in found if module is not None and module.training]


def check_denoiser(denoiser: Any) -> Denoiser:
    """The denoiser itself, which need not have a device; raises UserError, with advice, for anything else."""
    is_one = callable(denoiser) and not isinstance(denoiser, type)
    if is_one and all(is_whole(getattr(denoiser, name, None)) for name in ("num_tokens", "num_dims", "num_classes")):
        return denoiser
    what = f"an object of type {type(denoiser).__name__} is not a denoiser"
    own = getattr(denoiser, "denoiser", None)
    if own is not None:
        raise UserError(f"{what}: give its .denoiser{'()' if isinstance(own, MethodType) else ''}")
    if callable(denoiser):
        raise UserError(f"{what}: wrap it in FunctionDenoiser(..., num_tokens=N, num_dims=D, num_classes=K)")
    raise UserError(f"{what}: give a FunctionDenoiser, or load_run(...).denoiser")


CHECKS[Denoiser] = check_denoiser


def check_steady(denoiser: Denoiser) -> None:
    """Raise UserError for a denoiser whose output depends on more than the partial state and the class.

    If it depended on random numbers, earlier calls or the other rows of a call, no law would be that of its samples. It
    is called with a few states together, again, and one by one, and under several labels at once if it has `of_labels`.
    """
    n, d, k = denoiser.num_tokens, denoiser.num_dims, denoiser.num_classes
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(PROBED)
    tokens = torch.randint(n + 1, (PROBED, d), generator=generator)
    tokens[0] = n
    tokens[rows, rows % d] = n
    tokens = tokens.to(device_of(denoiser))
    classes = (rows % (k + 1)).to(tokens.device)
    first = conditionals(denoiser, tokens, classes)
    again = conditionals(denoiser, tokens, classes)
    alone = [conditionals(denoiser, tokens[i : i + 1], classes[i : i + 1]) for i in range(PROBED)]
    others = {"on a second call": again, "when alone in a call": torch.cat(alone)}
    if getattr(denoiser, "of_labels", None) is not None:
        together = conditionals_under(denoiser, tokens, range(k + 1))
        others["from that of of_labels"] = together[classes, rows.to(tokens.device)]
    for how, other in others.items():
        gap = 0.5 * (first.exp() - other.exp()).abs().sum(dim=-1).masked_fill(tokens != n, 0.0).amax(dim=1)
        worst = int(gap.argmax())
        if not float(gap[worst]) <= STEADY:
            state, label = name_state(tokens[worst].tolist(), n), int(classes[worst])
            raise UserError(
                f"the denoiser's output for the partial state {state} under {name_class(None if label == k else label)}"
                f" differs {how}, by {float(gap[worst]):.2g} (total variation): it must depend only on the state and "
                "the class, without dropout, random numbers, or statistics of the rows of a call"
            )


def device_of(denoiser: Denoiser) -> torch.device:
    """The denoiser's device, or the CPU if it names none."""
    return getattr(denoiser, "device", CPU)


def rounding_of(denoiser: Denoiser) -> float:
    """The relative rounding error of a denoiser's output: 2e-16 for float64, 1e-7 for float32.

    It is the denoiser's attribute `rounding`, or else that of its output type; float64 output whose values are all
    exact in float32 counts as float32. Float32 logits that were normalised in float64 are not recognised.
    """
    known: float | None = getattr(denoiser, "rounding", None)
    if known is not None:
        return known
    tokens = torch.full((1, denoiser.num_dims), denoiser.num_tokens, device=device_of(denoiser))
    with torch.no_grad():
        found = denoiser(tokens, torch.full_like(tokens[:, 0], denoiser.num_classes))
    telling = found[found.isfinite() & (found != 0)]  # 0 and -inf are exact in every type
    is_hidden = bool(telling.numel()) and torch.equal(telling.float().to(telling.dtype), telling)
    return max(torch.finfo(found.dtype).eps, torch.finfo(torch.float32).eps if is_hidden else 0.0)


def check_query(denoiser: Denoiser | FunctionDenoiser, tokens: Tensor, classes: Tensor | None) -> None:
    """Raise UserError unless a denoiser takes these arguments: tokens 0..N with N the mask, and labels 0..K.

    On an accelerator inside `checked_at_the_end` it is raised at the end, so that no call waits for the device.

    Args:
        tokens: int64 (B, D). classes: int64 (B,), or None.
    """
    check_states(tokens, denoiser.num_tokens, denoiser.num_dims)
    if classes is not None:
        check_labels(classes, denoiser.num_classes, len(tokens))


def check_shape(tokens: Tensor, num_dims: int) -> None:
    """Raise UserError unless tokens are (B, D)."""
    if tokens.ndim != 2 or tokens.shape[1] != num_dims:
        raise UserError(f"tokens have shape {tuple(tokens.shape)}, and must have (B, {num_dims})")


def check_states(tokens: Tensor, num_tokens: int, num_dims: int) -> None:
    """Raise UserError unless these are partial states: int64 (B, D), values 0..N with N the mask."""
    n = num_tokens
    _check_int64("tokens", tokens)
    check_shape(tokens, num_dims)
    if known_within(tokens, 0, n):
        return

    def explain(row: int, state: Tensor) -> str:
        i = int(((state < 0) | (state > n)).int().argmax())
        return f"token {int(state[i])} at coordinate {i + 1} of row {row}: tokens are 0..{n - 1}, and the mask {n}"

    raise_where((tokens < 0) | (tokens > n), explain, tokens)


def check_labels(classes: Tensor, num_classes: int, num: int) -> None:
    """Raise UserError unless these are labels of `num` partial states: int64 (num,), values 0..K with K no class."""
    k = num_classes
    _check_int64("classes", classes)
    if classes.shape != (num,):
        raise UserError(f"classes have shape {tuple(classes.shape)}, and must have ({num},): one for each state")

    def explain(row: int, label: Tensor) -> str:
        return f"class {int(label)} is out of range in row {row}: classes are 0..{k - 1}, and {k} is no class"

    raise_where((classes < 0) | (classes > k), explain, classes)


def _check_int64(what: str, values: Any) -> None:
    """Raise UserError for anything but an int64 tensor: a denoiser is called at every step, and converts nothing."""
    if not isinstance(values, Tensor) or values.dtype != torch.int64:
        found = f"of type {values.dtype}" if isinstance(values, Tensor) else shown(values)
        raise UserError(f"{what} are {found}, and must be a tensor of int64")


def check_class(target_class: int | None, num_classes: int) -> None:
    """Raise UserError unless the class is None or a whole number 0..K-1."""
    if target_class is None:
        return
    if not is_whole(target_class):
        raise UserError(f"class {shown(target_class)} is not a whole number: classes are 0 to {num_classes - 1}")
    if not 0 <= target_class < num_classes:
        raise UserError(
            f"class {target_class} is out of range: there are {num_classes} classes, 0 to {num_classes - 1}"
        )


def class_numbers(labels: Sequence[int | None], num_classes: int) -> list[int]:
    """Labels as the numbers 0..K that a denoiser takes, K for None.

    Raises:
        UserError: a class out of range.
    """
    numbers = [num_classes if label is None else label for label in labels]
    for number in numbers:
        check_class(None if number == num_classes else number, num_classes)
    return numbers


def conditionals(denoiser: Denoiser, tokens: Tensor, target_class: int | Tensor | None) -> Tensor:
    """The checked output of a denoiser: float64 (B, D, N), without a gradient.

    The denoiser is given copies, so writing over its arguments changes neither a chain nor a cached value.

    The rows of masked coordinates must sum to 1 within 1e-6 (1e-2 for float16 and bfloat16) and are always normalised
    again: they then sum to 1 to float64 rounding, whatever the type of the output.

    NaN and +inf are refused here, and so is all that would be silently wrong later: probabilities in place of
    logarithms, an entry for the mask, transposed rows, rows that do not sum to 1.

    Args:
        tokens: partial states, int64 (B, D).
        target_class: z for all rows, with None for no class; or one per row, int64 (B,), with K for no class.

    Raises:
        UserError: the output breaks the contract; the message names the first such partial state and its class.
    """
    if isinstance(target_class, Tensor):
        classes = target_class
    else:
        classes = tokens.new_full((len(tokens),), denoiser.num_classes if target_class is None else target_class)
    with torch.no_grad():
        answer = denoiser(tokens.clone(), classes.clone())
    check_shape_of(answer, (*tokens.shape, denoiser.num_tokens))
    return _normalized(denoiser, answer[None], tokens, classes[None], type(denoiser).__call__)[0]


def conditionals_under(denoiser: Denoiser, tokens: Tensor, labels: Sequence[int | None]) -> Tensor:
    """The checked output for the same partial states under several labels, float64 (L, B, D, N), in one call.

    `of_labels` is called where the denoiser has it; any other denoiser is given one row for each state and label.

    Args:
        tokens: partial states, int64 (B, D).
        labels: L classes; None and K are no class.

    Raises:
        UserError: a class out of range, or as `conditionals`.
    """
    numbers = class_numbers(labels, denoiser.num_classes)
    classes = constant_on(tuple(numbers), tokens.device, torch.int64)[:, None].expand(-1, len(tokens))
    together = getattr(denoiser, "of_labels", None)
    with torch.no_grad():
        if together is None:
            answer = denoiser(tokens.repeat(len(numbers), 1), classes.clone().flatten())
            check_shape_of(answer, (classes.numel(), *tokens.shape[1:], denoiser.num_tokens))
            answer = answer.unflatten(0, classes.shape)
        else:
            answer = together(tokens.clone(), numbers)
            check_shape_of(answer, (*classes.shape, *tokens.shape[1:], denoiser.num_tokens), "of_labels of ")
    return _normalized(denoiser, answer, tokens, classes, together or type(denoiser).__call__)


def check_shape_of(answer: Any, expected: tuple[int, ...], whose: str = "") -> None:
    """Raise UserError unless an output is a real tensor of the expected shape (..., D, N)."""
    if not isinstance(answer, Tensor):
        hint = ", such as its .logits.log_softmax(-1)" if hasattr(answer, "logits") else ""
        raise UserError(
            f"{whose}the denoiser returns an object of type {type(answer).__name__} and must return a tensor{hint}"
        )
    if answer.shape != expected:
        raise UserError(
            f"{whose}the denoiser returns shape {tuple(answer.shape)} and must return {expected}: a row of "
            "log-probabilities of the values 0..N-1 for every coordinate, without the mask"
        )
    if answer.is_complex():
        raise UserError(f"{whose}the denoiser returns complex numbers ({answer.dtype}) and must return real ones")


def _normalized(denoiser: Denoiser, answer: Tensor, tokens: Tensor, classes: Tensor, function: object) -> Tensor:
    """An output under L labels, checked and in float64: rows of masked coordinates sum to 1 to float64 rounding.

    Args:
        answer: (L, B, D, N). tokens: (B, D). classes: (L, B). function: what gave it.

    Returns:
        (L, B, D, N); on a CPU it may be `answer` itself, and must not be modified.
    """
    if normalizes.is_kept_by(function) and known_within(answer, NEG_INF, ROUNDING):
        return answer
    log_probs = in_planes(answer)
    totals = unrolled_sum_exp(log_probs)
    if known_within(totals, 1 - ROUNDING, 1 + ROUNDING):
        return log_probs
    error = (totals - 1).abs_()
    unmasked = tokens != denoiser.num_tokens
    done = (error <= ROUNDING) | unmasked
    tolerance = HALF_TOLERANCE if answer.dtype in HALF_TYPES else TOLERANCE
    _check_rows(~((error <= tolerance) | unmasked), totals, tolerance, tokens, classes, denoiser)
    # for every type: an error left here would grow with D in a likelihood, and with w in a guided rate
    return log_probs - totals.log().masked_fill(done, 0.0)[..., None]


def _check_rows(
    wrong: Tensor, totals: Tensor, tolerance: float, tokens: Tensor, classes: Tensor, denoiser: Denoiser
) -> None:
    """Raise UserError where rows of masked coordinates, bool (L, B, D), do not sum to 1."""
    mask_id = denoiser.num_tokens

    def explain(row: int, wrong: Tensor, totals: Tensor, state: Tensor, k: Tensor) -> str:
        i = int(wrong.int().argmax())
        under = name_class(None if int(k) == denoiser.num_classes else int(k))
        found = "NaN" if bool(totals[i].isnan()) else f"probabilities that sum to {float(totals[i]):.9g}"
        return (
            f"the denoiser returns {found} for coordinate {i + 1} of the partial state "
            f"{name_state(state.tolist(), mask_id)} under {under}: it must give normalised log-probabilities, "
            f"which sum to 1 within {tolerance:g}"
        )

    if is_on_cpu(wrong) and not bool(wrong.any()):
        return
    for own, sums, labels in zip(wrong, totals, classes, strict=True):
        raise_where(own, explain, own, sums, tokens, labels)


def by_label(tokens: Tensor, classes: Tensor, num_labels: int, ask: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The values of `ask(tokens, k)` for the rows of each label k, in the order of the rows.

    On an accelerator, so as not to wait for the labels, every label is evaluated for every row.

    Args:
        tokens: (B, D). classes: int64 (B,), values 0..num_labels-1. ask: maps (rows, D) to (rows, ...).
    """
    if not is_on_cpu(classes):
        answer = ask(tokens, 0)
        for k in range(1, num_labels):
            answer = torch.where((classes == k).view(-1, *[1] * (answer.ndim - 1)), ask(tokens, k), answer)
        return answer
    labels = classes.unique().tolist()
    if len(labels) < 2:
        return ask(tokens, labels[0] if labels else 0)
    rows = [(classes == k).nonzero().squeeze(1) for k in labels]
    answers = torch.cat([ask(tokens[own], k) for own, k in zip(rows, labels)])
    return torch.empty_like(answers).index_copy_(0, torch.cat(rows), answers)


def name_state(state: list[int], mask_id: int, most: int = 12) -> str:
    """A partial state as text, such as "(3, mask)"."""
    shown = ", ".join("mask" if value == mask_id else str(value) for value in state[:most])
    return f"({shown}{', ...' if len(state) > most else ''})"


def name_class(target_class: int | None) -> str:
    """A class as text: "class 3", or "no class"."""
    return "no class" if target_class is None else f"class {target_class}"
