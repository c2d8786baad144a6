"""Rules of guidance as users write them: "negative(3)", "compose(1:1.0,7:0.5)", "auto", "classifier(taylor)".

`parse_rule` reads what `str(rule)` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mdlm_cfg.chain.adaptive_cfg import AdaptiveCFG
from mdlm_cfg.chain.classifier_rule import ByClassifier, Classifier
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.forms import Unreadable, decimal, read_form, whole
from mdlm_cfg.chain.product_rules import Auto, Compose, Negative, Tempered
from mdlm_cfg.chain.rules import CFG, ProductRule, Rule
from mdlm_cfg.support.arguments import checked
from mdlm_cfg.support.errors import UserError

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
        UserError: anything else; a value that the rule does not take; auto without a denoiser, or classifier without
            a classifier.
    """
    if isinstance(text, Rule):
        return text
    plain: Mapping[str, Callable[[], Rule]] = {
        "cfg": CFG,
        "auto": lambda: _auto(weak),
        "classifier": lambda: _by_classifier(classifier),
    }
    forms: Mapping[str, Callable[[str], Rule]] = {
        "negative": lambda inside: Negative(whole(inside)),
        "compose": _compose,
        "classifier": lambda inside: _by_classifier(classifier, inside),
        "a_cfg": _adaptive,
        "tempered": lambda inside: _tempered(inside, weak, classifier),
    }
    return read_form("rule of guidance", text, plain, forms, ALLOWED)


def _auto(weak: Denoiser | None) -> Rule:
    if weak is None:
        raise UserError("the rule auto needs a weaker denoiser: a smaller network, or an earlier checkpoint")
    return Auto(weak)


def _by_classifier(classifier: Classifier | None, inside: str | None = None) -> Rule:
    if inside is not None and inside.strip() != "taylor":
        raise Unreadable
    if classifier is None:
        raise UserError("the rule classifier needs a classifier of partial states, and none was given")
    return ByClassifier(classifier, taylor=inside is not None)


def _compose(inside: str) -> Rule:
    pairs = []
    for part in inside.split(","):
        k, _, weight = part.partition(":")
        pairs.append((whole(k), decimal(weight)))
    return Compose(pairs)


def _adaptive(inside: str) -> Rule:
    name, _, value = (part.strip() for part in inside.partition("="))
    if name not in ("k", "share"):
        raise Unreadable
    return AdaptiveCFG(k=whole(value)) if name == "k" else AdaptiveCFG(share=decimal(value))


def _tempered(inside: str, weak: Denoiser | None, classifier: Classifier | None) -> Rule:
    temperature, separator, rest = inside.partition(";")
    inner = parse_rule(rest, weak=weak, classifier=classifier) if separator else CFG()
    if inner == CFG():
        return Tempered(decimal(temperature))
    if not isinstance(inner, ProductRule):
        raise UserError(f"tempered takes a product of powers of conditionals, and {inner} is not one")
    return Tempered(decimal(temperature), inner)
