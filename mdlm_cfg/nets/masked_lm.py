"""A masked language model, such as BERT, as a denoiser: a prompt for each class is what guides it.

The model is taken as an object and called as Hugging Face's are, `model(input_ids=..., attention_mask=...).logits`, so
that nothing of theirs is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.nets.wrapper import NetDenoiser
from mdlm_cfg.support.errors import UserError

Ids = Sequence[int]


class MaskedLanguageModel(nn.Module):
    """D positions of a masked language model, each with N of its words, after a prompt that says the class.

    A row of the model's input is the prompt of the row's class, the D positions, the suffix; shorter rows are padded at
    the end and hidden by the attention mask. What the model answers is restricted to the N words and normalised again:
    log p(v | x_U, z) = logits_v - log sum_u exp(logits_u), u running over the N words.

    Args:
        model: answers logits (B, L, vocabulary) under `.logits`, and has a `config` with `vocab_size`.
        values: the model's ids of our tokens 0..N-1.
        mask_id: the model's own mask.
        num_dims: D.
        prompts: ids before the D positions, one row for each of K classes; its start token belongs in them.
        null_prompt: the same for no class.
        suffix: ids after the D positions, such as the end token.

    Raises:
        UserError: fewer than two values, or one twice; an id that the model has not; no classes or positions; the mask
            among the values; or rows that are longer than the model allows.
    """

    template: Tensor  # int64 (K+1, L): the model's input under every class, all positions masked
    visible: Tensor  # int64 (K+1, L): 1 where the template is no padding
    places: Tensor  # int64 (K+1, D): where the D positions are
    ids: Tensor  # int64 (N+1,): the model's ids of our tokens and of the mask

    def __init__(
        self,
        model: nn.Module,
        values: Ids,
        mask_id: int,
        num_dims: int,
        prompts: Sequence[Ids],
        *,
        null_prompt: Ids = (),
        suffix: Ids = (),
    ) -> None:
        super().__init__()
        if len(values) < 2 or len(set(values)) < len(values) or mask_id in values:
            raise UserError(
                f"values {_shown(values)} must be at least two ids, each once, and not the mask {mask_id}: they are "
                "what a position may become"
            )
        if num_dims < 1 or not prompts:
            raise UserError(
                f"num_dims = {num_dims} and {len(prompts)} prompts: give at least one position, and a prompt for each "
                "class"
            )
        self.model = model
        self.num_tokens, self.num_dims, self.num_classes = len(values), num_dims, len(prompts)
        rows = [[*prompt, *[mask_id] * num_dims, *suffix] for prompt in (*prompts, null_prompt)]
        self._check(rows, values)
        device, length = next(model.parameters()).device, max(len(row) for row in rows)
        padding = getattr(model.config, "pad_token_id", None)
        padded = [row + [mask_id if padding is None else padding] * (length - len(row)) for row in rows]
        visible = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
        starts = torch.tensor([len(prompt) for prompt in (*prompts, null_prompt)])
        buffers = {
            "template": torch.tensor(padded), "visible": torch.tensor(visible),
            "places": starts[:, None] + torch.arange(num_dims), "ids": torch.tensor([*values, mask_id]),
        }  # fmt: skip
        for name, value in buffers.items():
            self.register_buffer(name, value.to(device), persistent=False)

    def _check(self, rows: Sequence[Ids], values: Ids) -> None:
        """Raise UserError for ids, or a length, that the model has not."""
        config: Any = self.model.config
        size, most = config.vocab_size, getattr(config, "max_position_embeddings", None)
        outside = [k for row in (*rows, values) for k in row if not 0 <= k < size]
        if outside:
            raise UserError(f"id {outside[0]} is not one of the model's: give ids from 0 to {size - 1}")
        longest = max(len(row) for row in rows)
        if most is not None and longest > most:
            raise UserError(
                f"prompt, {self.num_dims} positions and suffix are {longest} ids, and the model takes at most {most}"
            )

    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """float32 log-probabilities (B, D, N) of partial states (B, D), under classes (B,); see `Denoiser`."""
        places = self.places[classes]
        ids = self.template[classes].scatter(1, places, self.ids[tokens])
        logits = self.model(input_ids=ids, attention_mask=self.visible[classes]).logits
        ours = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1]))[..., self.ids[:-1]]
        return copy_unmasked(ours.float().log_softmax(-1), tokens)


def masked_lm_denoiser(
    model: nn.Module,
    values: Ids,
    mask_id: int,
    num_dims: int,
    prompts: Sequence[Ids],
    *,
    null_prompt: Ids = (),
    suffix: Ids = (),
    batch_size: int = 64,
) -> NetDenoiser:
    """A masked language model as a `Denoiser`, where its parameters are: see `MaskedLanguageModel`.

    Args:
        batch_size: most partial states per call of the model, whose logits over the whole vocabulary are held.
    """
    net = MaskedLanguageModel(model, values, mask_id, num_dims, prompts, null_prompt=null_prompt, suffix=suffix)
    return NetDenoiser(net, batch_size)


def _shown(ids: Ids) -> str:
    """The first ten of many."""
    return f"[{', '.join(map(str, ids[:10]))}{', ...' if len(ids) > 10 else ''}]"
