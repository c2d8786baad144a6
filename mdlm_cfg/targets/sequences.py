"""The shipped hidden Markov mixtures: a motif in noise, and two dialects (data=hmm_motif, data=hmm_dialects)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.hmm import HiddenMarkovMixture

BASES = "ACGT"
MOTIFS = ("TTGACATA", "TTGAGCGC")  # the first half is shared
LETTERS = "abcdefghijklmnopqrstuvwxyz_"  # the last stands between words

SOUNDS = {  # hidden states, and what each emits: a letter that comes twice is twice as likely
    "gap": "_",
    "stop": "tttkkppddbg",
    "hiss": "sssfhhvz",
    "nasal": "nnm",
    "liquid": "lrr",
    "rare": "wwyjcqx",
    "glide": "rrrll",  # between a stop and a vowel
    "open": "aaaaaaeo",
    "front": "eeeii",
    "back": "ooouu",
    "second": "iiuuey",  # of two vowels
    "humming end": "nnnm",
    "flowing end": "rrl",
    "closed end": "ttkkpd",
    "hissing end": "sssfz",
    "last vowel": "aaaeeoi",
}
ONSETS = {"stop": 5.0, "hiss": 3.0, "nasal": 3.0, "liquid": 2.0, "rare": 1.0}
ENDS = {"humming end": 3.0, "flowing end": 2.0, "closed end": 2.0, "hissing end": 2.0}
VOWELS = {"open": 4.0, "front": 3.0, "back": 3.0}
AFTER_VOWEL = ONSETS | ENDS | {"second": 2.0, "gap": 1.0, "last vowel": 0.0}
FOLLOWS: dict[str, Mapping[str, float]] = {  # weights of the next state, 0 for those not named
    "gap": ONSETS | {"open": 2.0, "front": 1.0, "back": 1.0},
    "stop": VOWELS | {"glide": 2.0, "last vowel": 2.0},
    "hiss": VOWELS | {"stop": 1.5, "last vowel": 2.0},
    "nasal": VOWELS | {"last vowel": 2.0},
    "liquid": VOWELS | {"last vowel": 2.0},
    "rare": VOWELS,
    "glide": VOWELS,
    "open": AFTER_VOWEL,
    "front": AFTER_VOWEL,
    "back": AFTER_VOWEL,
    "second": ONSETS | ENDS | {"gap": 3.0},
    "humming end": {"gap": 4.0, "stop": 2.0, "hiss": 1.0},
    "flowing end": {"gap": 4.0, "stop": 2.0, "nasal": 1.0},
    "closed end": {"gap": 5.0, "hiss": 1.0, "liquid": 1.0},
    "hissing end": {"gap": 4.0, "stop": 2.0},
    "last vowel": {"gap": 1.0},
}
SECOND_FOLLOWS: dict[str, Mapping[str, float]] = {  # where the second dialect differs
    "stop": {"open": 3.0, "front": 2.0, "back": 5.0, "glide": 1.0, "last vowel": 2.0},
    "nasal": {"open": 3.0, "front": 2.0, "back": 5.0, "last vowel": 2.0},
    "second": ONSETS | ENDS | {"gap": 1.0},
    "closed end": {"gap": 3.0, "hiss": 2.0, "liquid": 2.0},
}
SECOND_SOUNDS = {"hissing end": "ssffz", "last vowel": "aaeeoou"}
SLIP = 0.02  # share of letters drawn uniformly: no sequence is impossible


def motif_in_noise(num_dims: int = 64, entry: float = 1 / 24, fidelity: float = 0.75) -> HiddenMarkovMixture:
    """Two classes of sequences over ACGT: uniform noise with occasional motifs of eight letters.

    Both motifs begin with TTGA and end differently. Hidden state 0 is noise, and states 1 to 8 are the positions in a
    motif.

    Args:
        num_dims: D.
        entry: the probability that a motif begins after a noise position.
        fidelity: the probability that a letter of a motif is correct; the other letters share the rest.

    Raises:
        UserError: entry or fidelity is no probability.
    """
    for name, share in (("entry", entry), ("fidelity", fidelity)):
        if not 0 <= share <= 1:
            raise UserError(f"{name} = {share} of motif_in_noise must be a probability, from 0 to 1")
    length = len(MOTIFS[0])
    num_tokens = len(BASES)
    transition = torch.zeros(length + 1, length + 1, dtype=torch.float64)
    transition[0, 0] = 1 - entry
    transition[0, 1] = entry
    for place in range(1, length + 1):
        transition[place, (place + 1) % (length + 1)] = 1.0
    emission = torch.full((2, length + 1, num_tokens), (1 - fidelity) / (num_tokens - 1), dtype=torch.float64)
    emission[:, 0] = 1 / num_tokens
    for rows, motif in zip(emission, MOTIFS):
        for place, base in enumerate(motif, start=1):
            rows[place, BASES.index(base)] = fidelity
    initial = torch.zeros(2, length + 1)
    initial[:, 0] = 1.0
    return HiddenMarkovMixture(
        initial,
        transition.expand(2, -1, -1),
        emission,
        torch.full((2,), 0.5),
        num_dims=num_dims,
        class_names=MOTIFS,
        value_names=tuple(BASES),
    )


def dialects(num_dims: int = 128, apart: float = 1.0) -> HiddenMarkovMixture:
    """Two dialects of one made-up language over 27 letters, of sixteen hidden sounds: words of syllables, and gaps.

    They share their sounds and most transitions: the second prefers back vowels after stops and nasals, rarely ends a
    word after two vowels, and writes two sounds differently.

    Args:
        num_dims: D.
        apart: from 0, one language, to 1: the share of these differences that the second dialect has.

    Raises:
        UserError: apart is not from 0 to 1.
    """
    if not 0 <= apart <= 1:
        raise UserError(f"apart = {apart} of dialects must be a share, from 0 to 1")
    first = _transition(FOLLOWS), _emission(SOUNDS)
    second = _transition(FOLLOWS | SECOND_FOLLOWS), _emission(SOUNDS | SECOND_SOUNDS)
    transition, emission = (torch.stack([a, a + apart * (b - a)]) for a, b in zip(first, second))
    initial = torch.zeros(2, len(SOUNDS))
    initial[:, 0] = 1.0
    return HiddenMarkovMixture(
        initial,
        transition,
        emission,
        torch.full((2,), 0.5),
        num_dims=num_dims,
        class_names=("first", "second"),
        value_names=tuple(LETTERS),
    )


def _transition(follows: Mapping[str, Mapping[str, float]]) -> Tensor:
    """Transition probabilities, rows summing to 1: (S, S)."""
    rows = torch.tensor([[follows[a].get(b, 0.0) for b in SOUNDS] for a in SOUNDS], dtype=torch.float64)
    return rows / rows.sum(dim=1, keepdim=True)


def _emission(sounds: Mapping[str, str]) -> Tensor:
    """The letters of every sound, with slips: (S, N)."""
    rows = torch.tensor([[written.count(c) for c in LETTERS] for written in sounds.values()], dtype=torch.float64)
    return (1 - SLIP) * rows / rows.sum(dim=1, keepdim=True) + SLIP / len(LETTERS)
