"""A masked language model, such as BERT, as a denoiser that is guided by a sentence for each class.

The model is taken as an object and called as Hugging Face's are, `model(input_ids=..., attention_mask=...).logits`, so
that nothing of theirs is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mdlm_cfg.chain.masking import copies_unmasked, copy_unmasked
from mdlm_cfg.nets.wrapper import NetDenoiser
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError

Ids = Sequence[int]


class MaskedLanguageModel(nn.Module):
    """The D masks in a sentence of a masked language model, each to become one of N words.

    Every class has its own sentence, whose masks are the coordinates, in order, and whose other words describe the
    class. The model's output is restricted to the N words and normalised again:
    log p(v | x_U, z) = logits_v - log sum_u exp(logits_u), u running over the N words. Shorter sentences are padded at
    the end and the padding is hidden by the attention mask.

    Args:
        model: returns logits (B, L, vocabulary) under `.logits`, and has a `config` with `vocab_size`.
        values: the model's ids of our tokens 0..N-1.
        mask_id: the model's own mask.
        sentences: ids with the mask at D places, one row for each of K classes, start and end tokens included.
        null_sentence: the same for no class.

    Raises:
        UserError: fewer than two values, one twice, or the mask among them; an id that the model does not have; no
            classes; sentences without masks or of different numbers of them, or longer than the model allows.
    """

    sentences: Tensor  # int64 (K+1, L): the model's input under every class, all D coordinates masked
    visible: Tensor  # int64 (K+1, L): 1 where a sentence is no padding
    places: Tensor  # int64 (K+1, D): where the coordinates are
    ids: Tensor  # int64 (N+1,): the model's ids of our tokens and of the mask

    def __init__(
        self, model: nn.Module, values: Ids, mask_id: int, sentences: Sequence[Ids], null_sentence: Ids
    ) -> None:
        super().__init__()
        if len(values) < 2 or len(set(values)) < len(values) or mask_id in values:
            raise UserError(
                f"values {_shown(values)} must be at least two ids, each once, and not the mask {mask_id}: they are "
                "what a mask may become"
            )
        if not sentences:
            raise UserError("there are no sentences: give one for each class")
        rows = [list(row) for row in (*sentences, null_sentence)]
        places = [[at for at, k in enumerate(row) if k == mask_id] for row in rows]
        counts = [len(row) for row in places]
        if min(counts) == 0 or len(set(counts)) > 1:
            raise UserError(
                f"the sentences hold {_shown(counts[:-1])} masks (id {mask_id}) and the null sentence {counts[-1]}: "
                "give each the same number of them, at least one"
            )
        self.model = model
        self.num_tokens = len(values)
        self.num_dims = counts[0]
        self.num_classes = len(sentences)
        self._check(rows, values)
        device = next(model.parameters()).device
        length = max(len(row) for row in rows)
        padding = getattr(getattr(model, "config", None), "pad_token_id", None)
        filler = mask_id if padding is None else padding
        buffers = {
            "sentences": [row + [filler] * (length - len(row)) for row in rows],
            "visible": [[1] * len(row) + [0] * (length - len(row)) for row in rows],
            "places": places,
            "ids": [*values, mask_id],
        }
        for name, value in buffers.items():
            self.register_buffer(name, torch.tensor(value, device=device), persistent=False)

    def _check(self, rows: Sequence[Ids], values: Ids) -> None:
        """Raise UserError for ids that the model does not have, or a length that it does not allow."""
        config: Any = getattr(self.model, "config", None)
        size = getattr(config, "vocab_size", None)
        if size is None:
            raise UserError(
                f"the model, a {type(self.model).__name__}, has no config.vocab_size: give a masked language model "
                "with the interface of Hugging Face's"
            )
        most = getattr(config, "max_position_embeddings", None)
        outside = [k for row in (*rows, values) for k in row if not 0 <= k < size]
        if outside:
            raise UserError(f"id {outside[0]} is not one of the model's: give ids from 0 to {size - 1}")
        longest = max(len(row) for row in rows)
        if most is not None and longest > most:
            raise UserError(f"a sentence has {longest} ids, and the model takes at most {most}: shorten it")

    @copies_unmasked
    def forward(self, tokens: Tensor, classes: Tensor) -> Tensor:
        """float32 log-probabilities (B, D, N) of partial states (B, D), under classes (B,); see `Denoiser`."""
        places = self.places[classes]
        ids = self.sentences[classes].scatter(1, places, self.ids[tokens])
        logits = self.model(input_ids=ids, attention_mask=self.visible[classes]).logits
        ours = logits.gather(1, places[..., None].expand(-1, -1, logits.shape[-1]))[..., self.ids[:-1]]
        return copy_unmasked(ours.float().log_softmax(-1), tokens)


@checked
def masked_lm_denoiser(
    model: nn.Module,
    values: Ids,
    mask_id: int,
    sentences: Sequence[Ids],
    null_sentence: Ids,
    *,
    batch_size: int = 64,
) -> NetDenoiser:
    """A masked language model as a `Denoiser`, where its parameters are: see `MaskedLanguageModel`.

    Args:
        batch_size: the most partial states per call of the model; their logits over the whole vocabulary are held.
    """
    return NetDenoiser(MaskedLanguageModel(model, values, mask_id, sentences, null_sentence), batch_size)


def _shown(numbers: Ids) -> str:
    """The first ten of many."""
    return f"[{', '.join(map(str, numbers[:10]))}{', ...' if len(numbers) > 10 else ''}]"
