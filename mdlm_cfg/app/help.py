"""The text of `--help`, and suggestions for mistyped options: both from the configuration files alone.

Nothing heavy is imported: the answer comes within a second.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from mdlm_cfg.app.groups import groups_of, options_of, settings_text
from mdlm_cfg.support.atomic import read_mapping
from mdlm_cfg.support.errors import did_you_mean

INTRODUCTIONS = {
    "train": """\
Train a denoiser, test it, and compare it with exact results.

    python train.py                                    the default toy, in about half a minute
    python train.py data=toy_5d_hypercube w=[0,1,2]    other data, other guidance strengths
    python train.py experiment=mnist                   a recipe: data, network and settings together
    python train.py -m seed=0,1,2 'w=[0,2],[0,4]'      a sweep: every combination (quote commas within brackets)
    python train.py ckpt_path=runs/.../last.ckpt       resume an interrupted run
    python train.py experiment=mnist ckpt_path=auto    resume the newest unfinished run of this configuration""",
    "eval": """\
Evaluate a trained network, or an exact denoiser, under guidance.

    python eval.py                                     the newest run
    python eval.py ckpt_path=FILE w=[0,1,8]            another run, other strengths
    python eval.py sampler=tau_leaping steps=16 guidance=normalized target_class=1
    python eval.py 'w=[2,ramp(0,4),interval(4,0.3,0.9)]' 'policy=fixed_order(1,0)'
    python eval.py denoiser=exact data=toy_2d_overlap  exact conditionals: nothing is trained""",
    "sample": """\
Draw guided samples from a trained network: samples.npz, and a picture for images or a file of lines for text.

    python -m mdlm_cfg.sample                          64 samples of every class, from the newest run
    python -m mdlm_cfg.sample ckpt_path=RUN target_class=3 w=2 n=64 out=threes
    python -m mdlm_cfg.sample 'w=[0,1,2]' sampler=event_leaping steps=32 seed=1""",
}
NOTES = """\
Options use hydra's syntax: key=value for a setting below, group=option for a file of settings, key.sub=value in a \
group.
Put options that contain brackets, | or ; in single quotes (bash and zsh): 'w=[0,ramp(0,4)]' \
'policy=fixed_order(1,0)'
(bash accepts w=[0,1,2] without quotes).
Name your own function or class (on PYTHONPATH) by _target_, with its arguments: sampler._target_=my_package.mine
sampler.steps=8 (also guidance, policy, study, and denoiser in eval.py).
A path that contains = or a comma needs two kinds of quotes: 'data.path="a=b.npz"'."""


SCRIPT = re.compile(r"(?:python )?\b(train|eval)\.py\b|python -m mdlm_cfg\.(sample)\b")


def help_text(name: str, configs: Path, program: str = "") -> str:
    """The help of a command: examples, the groups with their options, and every setting with its comment.

    Args:
        name: "train" or "eval", of the file in `configs`.
        program: that was called; the examples of an installed command, such as "mdlm-eval", call installed ones.
    """
    settings = settings_text(name, configs)
    groups = [_paragraph(group, default, configs) for group, default in groups_of(name, configs).items()]
    parts = [INTRODUCTIONS[name], NOTES, *(["GROUPS", *groups] if groups else []), "SETTINGS", _indent(settings)]
    text = "\n\n".join(parts) + "\n"
    is_installed = Path(program).name.startswith("mdlm-")
    return SCRIPT.sub(lambda match: f"mdlm-{match[1] or match[2]}", text) if is_installed else text


def _paragraph(group: str, default: str | None, configs: Path) -> str:
    """A group: its default, and its options."""
    options = options_of(group, configs).items()
    lines = [f"  {group}={option}  {_first_comment(path)}".rstrip() for option, path in options]
    return _indent("\n".join([f"{group} (default: {default or 'none'})", *lines]))


def _first_comment(path: Path) -> str:
    """The first comment of a file that is not a directive."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ")
    return ""


def _indent(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def suggestion(message: str, configs: Path, name: str) -> str:
    """A suggestion for an option that hydra rejects: " did you mean ...?", or nothing."""
    unknown_key = re.search(r"Key '(\w+)' is not in|[Cc]ould not override '([\w.]+)'", message)
    unknown_option = re.search(r"Could not find '([\w/]+)/([\w.-]+)'", message)
    if unknown_option:
        return did_you_mean(unknown_option[2], options_of(unknown_option[1], configs))
    if unknown_key:
        word = next(word for word in unknown_key.groups() if word)
        near = did_you_mean(word, known_keys(configs, name) - {word, word.rpartition(".")[2]})
        if word.startswith("trainer."):  # the files list only some of its arguments
            return f"; another argument of Lightning's Trainer has a plus, +{word}=VALUE{near}"
        return near
    return ""


def known_keys(configs: Path, name: str) -> set[str]:
    """Every key of a command's file and of its groups' files: the whole ("trainer.max_epochs") and the last part."""
    top = yaml.safe_load(settings_text(name, configs))
    groups = groups_of(name, configs)
    keys = {*groups, *top}
    nested = [(key, value) for key, value in top.items() if isinstance(value, dict)]
    nested += [(group, read_mapping(path)) for group in groups for path in (configs / group).glob("*.yaml")]
    for group, settings in nested:
        for key in settings.keys() - {"defaults", "_target_"}:
            keys |= {key, f"{group}.{key}"}
    return keys
