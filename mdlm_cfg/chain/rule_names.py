"""Rules of guidance as users write them: "negative(3)", "compose(1:1.0,7:0.5)", "auto", "classifier(taylor)".

What is read here is what `str(rule)` writes.
"""

from __future__ import annotations

import re

from mdlm_cfg.chain.adaptive_cfg import AdaptiveCFG
from mdlm_cfg.chain.classifier_rule import ByClassifier, Classifier
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.product_rules import Auto, Compose, Negative, Tempered
from mdlm_cfg.chain.rules import CFG, ProductRule, Rule
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError, did_you_mean, shown

NAMES = ("cfg", "negative", "compose", "auto", "classifier", "a_cfg", "tempered")
ALLOWED = (
    "cfg, negative(CLASS), compose(CLASS:WEIGHT,...), auto, classifier, classifier(taylor), a_cfg(k=2), "
    "a_cfg(share=0.3), tempered(TEMPERATURE) or tempered(TEMPERATURE; RULE)"
)


@checked
def parse_rule(text: str | Rule, *, weak: Denoiser | None = None, classifier: Classifier | None = None) -> Rule:
    """A rule as a user writes it, or itself.

    Args:
        text: see `ALLOWED`. weak: the denoiser of "auto". classifier: the one of "classifier".

    Raises:
        UserError: anything else; a value that the rule does not take; no denoiser for auto, no classifier.
    """
    if isinstance(text, Rule):
        return text
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text, flags=re.DOTALL) if isinstance(text, str) else None
    name, inside = match.groups() if match else ("", None)
    rule = _rule(name, inside, weak, classifier)
    if rule is None:
        near = "" if name in NAMES or not isinstance(text, str) else did_you_mean(name, NAMES)
        raise UserError(f"the rule of guidance {shown(text)} cannot be read; write {ALLOWED}{near}")
    return rule


def _rule(name: str, inside: str | None, weak: Denoiser | None, classifier: Classifier | None) -> Rule | None:
    if name == "cfg" and inside is None:
        return CFG()
    if name == "negative" and inside is not None and (k := _whole(inside)) is not None:
        return Negative(k)
    if name == "compose" and inside is not None:
        return _compose(inside)
    if name == "auto" and inside is None:
        if weak is None:
            raise UserError("the rule auto needs a weaker denoiser: a smaller network, or an earlier checkpoint")
        return Auto(weak)
    if name == "classifier" and (inside is None or inside.strip() == "taylor"):
        if classifier is None:
            raise UserError("the rule classifier needs a classifier of partial states, and none was given")
        return ByClassifier(classifier, taylor=inside is not None)
    if name == "a_cfg" and inside is not None:
        return _adaptive(inside)
    if name == "tempered" and inside is not None:
        return _tempered(inside, weak, classifier)
    return None


def _compose(inside: str) -> Rule | None:
    pairs = []
    for part in inside.split(","):
        k, separator, weight = part.partition(":")
        number = _number(weight)
        whole = _whole(k)
        if not separator or whole is None or number is None:
            return None
        pairs.append((whole, number))
    return Compose(pairs)


def _adaptive(inside: str) -> Rule | None:
    name, _, value = (part.strip() for part in inside.partition("="))
    if name == "k" and (k := _whole(value)) is not None:
        return AdaptiveCFG(k=k)
    if name == "share" and (share := _number(value)) is not None:
        return AdaptiveCFG(share=share)
    return None


def _tempered(inside: str, weak: Denoiser | None, classifier: Classifier | None) -> Rule | None:
    number, separator, rest = inside.partition(";")
    temperature = _number(number)
    if temperature is None:
        return None
    inner = parse_rule(rest, weak=weak, classifier=classifier) if separator else CFG()
    if inner == CFG():
        return Tempered(temperature)
    if not isinstance(inner, ProductRule):
        raise UserError(f"tempered takes a product of powers of conditionals, and {inner} is not one")
    return Tempered(temperature, inner)


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\s*\d+\s*", text, re.ASCII) else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
