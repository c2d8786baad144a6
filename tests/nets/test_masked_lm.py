"""A Hugging Face masked language model as a denoiser, held against its own logits; nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from oracle import Chain
from torch import Tensor

from mdlm_cfg import Guidance, Sampler, UserError, law_at, sample, slice_denoiser, terminal_law
from mdlm_cfg.chain.denoiser import conditionals
from mdlm_cfg.nets import check_network, masked_lm_denoiser

if TYPE_CHECKING:
    from transformers import BertForMaskedLM

pytestmark = (
    pytest.mark.slow
)  # whoever has transformers waits for it at every start: it is not installed for the others
MASK = 3
START = 1
END = 2
PAD = 0
VALUES = [7, 5, 11]
SENTENCES = [[START, 12, 13, MASK, MASK, 15, MASK, MASK, END], [START, 14, MASK, MASK, MASK, MASK, END]]
NULL = [START, MASK, MASK, 16, MASK, MASK, END]
DIMS = 4


@pytest.fixture(scope="module")
def model() -> BertForMaskedLM:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    shape = {
        "vocab_size": 20,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    found = BertForMaskedLM(BertConfig(**shape, max_position_embeddings=12, pad_token_id=PAD))
    for parameter in found.parameters():  # a new BERT hardly looks at its input
        parameter.data.mul_(6.0) if parameter.ndim == 2 else None
    return found


@pytest.fixture(scope="module")
def denoiser(model: BertForMaskedLM):
    return masked_lm_denoiser(model, VALUES, MASK, SENTENCES, NULL)


class Direct:
    """The model's own logits, one state after another and unpadded, of the free ones of the four words."""

    num_tokens = len(VALUES)
    num_classes = len(SENTENCES)

    def __init__(self, model: BertForMaskedLM, state: list[int]) -> None:
        self.model = model
        self.state = state
        self.free = [i for i, value in enumerate(state) if value == len(VALUES)]
        self.num_dims = len(self.free)

    @torch.no_grad()
    def __call__(self, tokens: Tensor, classes: Tensor) -> Tensor:
        ids = [*VALUES, MASK]
        found = []
        for state, k in zip(tokens.tolist(), classes.tolist()):
            whole = list(self.state)
            for place, value in zip(self.free, state):
                whole[place] = value
            line = list([*SENTENCES, NULL][k])
            masks = [at for at, word in enumerate(line) if word == MASK]
            for at, value in zip(masks, whole):
                line[at] = ids[value]
            logits = self.model.eval()(input_ids=torch.tensor([line])).logits[0].double()
            found.append(logits[[masks[place] for place in self.free]][:, VALUES].log_softmax(-1))
        return torch.stack(found)


@pytest.mark.parametrize("target_class", [0, 1, None])
def test_it_answers_what_the_model_does(model, denoiser, target_class) -> None:
    tokens = torch.tensor([[3, 3, 3, 3], [0, 3, 2, 3], [3, 1, 3, 3]])
    found = conditionals(denoiser, tokens, target_class)
    label = len(SENTENCES) if target_class is None else target_class
    for row, state in zip(found, tokens):
        expected = Direct(model, state.tolist())(torch.full((1, int((state == 3).sum())), 3), torch.tensor([label]))[0]
        assert torch.allclose(row[state == 3], expected, atol=1e-5)
    assert found[1, 0].tolist() == [0.0, -torch.inf, -torch.inf], "what is known is copied"
    assert (found[0] - conditionals(denoiser, tokens, 1 if target_class != 1 else 0)[0]).abs().max() > 1e-3


def test_rows_of_several_classes_do_not_mix(denoiser) -> None:
    tokens = torch.full((3, DIMS), 3)
    classes = torch.tensor([2, 0, 1])
    together = denoiser(tokens, classes)
    apart = torch.cat([denoiser(tokens[:1], k[None]) for k in classes])
    assert torch.allclose(together, apart, atol=1e-5)
    assert torch.allclose(together[:1], denoiser(tokens[:1], None), atol=1e-5)


@pytest.mark.parametrize("kind", ["rate", "normalized"])
def test_the_guided_law_of_words_in_a_sentence_is_that_of_its_logits(model, denoiser, kind) -> None:
    sentence = [3, 1, 3, 0]  # two words are free, the others are known
    guidance = Guidance(2.0, kind)
    free = slice_denoiser(denoiser, torch.tensor(sentence))
    oracle = Chain(Direct(model, sentence), 2.0, kind, 1)
    assert torch.allclose(terminal_law(free, guidance, 1), oracle.terminal_by_orders(), atol=1e-5)
    assert torch.allclose(law_at(free, guidance, 1, tau=0.7), oracle.law_at(0.7), atol=1e-5)
    unguided = terminal_law(free, Guidance(0.0), 1)
    assert (unguided - oracle.terminal_by_orders()).abs().max() > 1e-2, "guidance does something here"


def test_it_samples_and_is_left_as_it_was(model, denoiser) -> None:
    model.train()
    x = sample(denoiser, Guidance(1.0), 0, 50, Sampler("event_leaping", 2), generator=torch.Generator().manual_seed(0))
    assert x.shape == (50, DIMS) and int(x.max()) < len(VALUES)
    assert model.training
    model.eval()


def test_it_may_be_trained(denoiser) -> None:
    check_network(denoiser.net, "the masked language model")
    loss = -denoiser.net(torch.full((2, DIMS), 3), torch.tensor([0, 2]))[..., 0].sum()
    loss.backward()
    assert denoiser.net.model.get_input_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"values": [7]}, r"values \[7\].* 3:"),
        ({"values": [7, 7]}, r"values \[7, 7\].* 3:"),
        ({"values": [7, MASK]}, r"values \[7, 3\].* 3:"),
        ({"values": [7, 20]}, r"id 20\b.* 0 to 19"),
        ({"sentences": [[-1, *[MASK] * 4]]}, r"id -1\b.* 0 to 19"),
        ({"sentences": []}, r"^\D*$"),
        ({"null_sentence": [START]}, r"\[4, 4\].*\(id 3\).*\b0\b"),
        ({"sentences": [[MASK] * 3, [MASK] * 4]}, r"\[3, 4\].*\(id 3\).*\b4\b"),
        ({"null_sentence": [MASK] * 4 + [15] * 9}, r"\b13\b.*\b12\b"),
    ],
)
def test_what_does_not_fit_is_refused(model, changed, complaint) -> None:
    fitting = {"values": VALUES, "mask_id": MASK, "sentences": SENTENCES, "null_sentence": NULL}
    with pytest.raises(UserError, match=complaint):
        masked_lm_denoiser(model, **(fitting | changed))
