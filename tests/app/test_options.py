"""What is typed on a command line: names of groups, quotes, recipes, help, and how it is shown again."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import refusal, run
from compositions import composed_once
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given, settings, strategies as st
from test_configs import composed

from mdlm_cfg import Blocks, Confidence, FixedOrder, Interval, LinearRamp, PerCount, UserError
from mdlm_cfg.app import cli
from mdlm_cfg.app.cli import CONFIGS
from mdlm_cfg.app.groups import recipe_of, settings_text, with_options, with_recipe
from mdlm_cfg.app.help import did_you_mean, help_text, known_keys, suggestion
from mdlm_cfg.app.jobs import Outcome
from mdlm_cfg.app.overrides import as_typed, comma_outside_brackets, for_any_data, quoted, with_objects
from mdlm_cfg.app.settings import plan_of

KEPT = ["study=policies", "study=''", "study=[]", "study='1e30'", "study=policies,corpus", "study=glob(p*)"]
KEPT += ["w=1e30", "-m", "~study", "~data"]


def test_names_and_other_arguments_are_left_alone() -> None:
    assert with_options(KEPT, "train", CONFIGS) == KEPT


NAMELESS = ["1", "1e30", "-1e30", ".5", "1_000", "nan", "inf", "true", "{}", "{a:1}", "[1]", "[policies,null]", "[[a]]"]


@pytest.mark.parametrize("value", NAMELESS)
def test_what_hydra_reads_as_no_name_is_refused(value: str) -> None:
    for argument in (f"study={value}", f"+study={value}", f"study={value},policies", f"data={value}"):
        with pytest.raises(UserError, match=rf"{re.escape(argument)} .*(policies|toy_2d_overlap)"):
            with_options([argument], "train", CONFIGS)
    for argument in (f"hydra/launcher={value}", f"hydra/sweeper={value}"):
        with pytest.raises(UserError, match=re.escape(argument)):
            with_options([argument], "train", CONFIGS)


def test_null_is_the_default_of_some_groups_and_of_others_none() -> None:
    assert with_options(["study=null", "seed=1"], "eval", CONFIGS) == ["seed=1"]
    for argument in ("data=null", "study=null,policies", "study=range(1,3)"):
        with pytest.raises(UserError, match=rf"{re.escape(argument)} .*(policies|toy_2d_overlap)"):
            with_options([argument], "eval", CONFIGS)


@pytest.mark.parametrize("argument", ["study=null", "+study=null"])
def test_null_is_chosen_in_place_of_what_an_experiment_chooses(argument: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for arguments in ([argument, "experiment=best_schedule"], ["experiment=best_schedule", argument]):
            assert compose("eval", with_options(arguments, "eval", CONFIGS)).study is None


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(["study", "data", "experiment", "+study", "net"]),
    st.one_of(
        st.text("1e0.+-_nainfx[]{}'\"ul,:", max_size=6),
        st.floats().map(str),
        st.integers().map(str),
        st.sampled_from(["policies", "toy_1d_overlap", "null", "True", "0x1f", "1e5"]),
    ),
)
def test_whatever_is_given_hydra_composes_it_or_says_why_not(key: str, value: str) -> None:
    try:
        arguments = with_options([f"{key}={value}"], "train", CONFIGS)
    except UserError as error:
        assert "\n" not in str(error)
        return
    # of a HydraException `sentence` makes one line
    with composed_once(), initialize_config_dir(str(CONFIGS), version_base="1.3"), suppress(HydraException):
        compose("train", arguments)


@pytest.mark.parametrize("name", ["train", "eval"])
def test_help_names_every_option_of_every_group_and_every_setting(name: str) -> None:
    text = help_text(name, CONFIGS)
    top = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    for entry in top["defaults"]:
        if isinstance(entry, dict) and not next(iter(entry)).startswith("override"):
            group = next(iter(entry))
            for path in (CONFIGS / group).rglob("*.yaml"):
                assert f"{group}={path.relative_to(CONFIGS / group).with_suffix('').as_posix()}" in text
    for key in yaml.safe_load(settings_text(name, CONFIGS)):
        assert f"\n  {key}:" in text
    installed = help_text("eval", CONFIGS, "/somewhere/mdlm-eval")
    assert "mdlm-eval" in installed and not re.search(r"\b(train|eval|sample)\.py", installed)
    assert "optimizer=muon" not in help_text("eval", CONFIGS)  # a group that eval.py refuses


def test_typos_are_answered_by_what_is_near() -> None:
    assert "trainer" in suggestion(
        "Could not override 'traner.max_epochs'.\nKey 'traner' is not in struct", CONFIGS, "train"
    )
    assert "+trainer.profiler=" in suggestion("Could not override 'trainer.profiler'.", CONFIGS, "train")
    assert "toy_2d_overlap" in suggestion("Could not find 'data/toy_2d_overlp'", CONFIGS, "train")
    assert "num_samples" in suggestion("Key 'num_sample' is not in struct", CONFIGS, "eval")
    assert suggestion("Key 'zzzz' is not in struct", CONFIGS, "train") == ""
    assert suggestion("something else", CONFIGS, "train") == ""
    assert did_you_mean("abc", []) == ""


def test_known_keys_hold_those_of_groups_and_of_the_file() -> None:
    keys = known_keys(CONFIGS, "train")
    assert {"trainer", "trainer.max_epochs", "max_epochs", "data.batch_size", "w", "seed"} <= keys
    assert "hydra" not in keys and "_target_" not in keys


@pytest.mark.parametrize("argument", ["=3", "++=3", "@a=1", "+@a=1", "~", "~@a", ""])
def test_an_argument_without_a_key_is_named(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert repr(argument) in refusal(capsys, "train", argument)


@pytest.mark.parametrize(
    "typed",
    [
        ["seed=3", "w=[0,1]"],
        ["policy=blocks(0,1|2; confidence(temperature=0.5))"],
        ["w=[ramp(0,4),2]"],
        ["sampler._target_=my.Own", "sampler.steps=4"],
        ["data.path=a folder/x"],
        ["data.num_test=9"],
    ],
)
def test_what_is_shown_can_be_typed_again(typed: list[str]) -> None:
    assert shlex.split(" ".join(as_typed(for_any_data(with_objects(quoted(typed)))))) == typed


def test_a_report_names_the_command_study_and_data(tmp_path: Path) -> None:
    typed = ["denoiser=exact", "data=toy_1d_overlap", "study=decay", "w=[0,ramp(0,2)]", f"out={tmp_path}"]
    assert run("eval", *typed) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert set(shlex.split(found["run"]["command"])) == {"eval.py", *typed}
    assert {"toy_1d_overlap", "decay"} <= set(found["title"].replace(",", "").split())


ISSUE = "w=[ramp(0,4),interval(4,0.3,0.9),[0.58,2.0]]"


def read(argument: str) -> Any:
    """The value that hydra reads, after quoting; of a sweep, the values of its jobs."""
    (override,) = OverridesParser.create().parse_overrides(quoted([argument]))
    if override.is_sweep_override():
        return list(override.sweep_iterator())
    value = override.value()
    return value if isinstance(value, list) else str(value)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (ISSUE, ["ramp(0,4)", "interval(4,0.3,0.9)", [0.58, 2.0]]),
        ("w=[2,ramp(0, 4)]", [2, "ramp(0, 4)"]),
        ("++w=ramp(0,4)", "ramp(0,4)"),
        ("w=['ramp(0,4)',\"interval(1,0,1)\"]", ["ramp(0,4)", "interval(1,0,1)"]),  # quoted already
        ("w=[nonsense(1)]", ["nonsense(1)"]),  # refused later, in a sentence of our own
        ("policy=fixed_order(2,0,1)", "fixed_order(2,0,1)"),
        ("policy=blocks(0,1|2,3;confidence(temperature=0.5))", "blocks(0,1|2,3;confidence(temperature=0.5))"),
        ("policy=confidence", "confidence"),
        ("remasking=loop(0.02, on=0.6)", "loop(0.02, on=0.6)"),
        ("correction=correction(size=2,policy=fixed_order(1,0))", "correction(size=2,policy=fixed_order(1,0))"),
        (
            "study.starts=[{name:remdm,steps:4,remasking:loop(0.02,on=0.6)}]",
            [{"name": "remdm", "steps": 4, "remasking": "loop(0.02,on=0.6)"}],
        ),
        ("sampler.policy=fixed_order(1,0)", "fixed_order(1,0)"),
        ("w=[int(2.5),2]", [2, 2]),  # a function of hydra's
    ],
)
def test_what_hydra_reads(argument: str, expected: Any) -> None:
    assert read(argument) == expected
    assert quoted(quoted([argument])) == quoted([argument])


@pytest.mark.parametrize(
    ("argument", "jobs"),
    [
        ("w=ramp(0,4),[0,2],2", ["'ramp(0,4)'", "[0,2]", "2"]),
        ("w=[ramp(0,4),2],[interval(4,0.3,0.9)]", ["['ramp(0,4)',2]", "['interval(4,0.3,0.9)']"]),
        ("w=choice(ramp(0,4),2)", [r"ramp\(0\,4\)", "2"]),  # hydra's own way of quoting
        ("policy=fixed_order(1,0),rate,blocks(0|1)", ["'fixed_order(1,0)'", "rate", "'blocks(0|1)'"]),
    ],
)
def test_commas_outside_brackets_separate_jobs(argument: str, jobs: list[str]) -> None:
    (override,) = OverridesParser.create().parse_overrides(quoted([argument]))
    assert list(override.sweep_string_iterator()) == jobs


def test_other_keys_stay_as_they_are() -> None:
    arguments = ["data.path='a(b).npz'", "steps=[0,1,inf]", "-m", "seed=range(0,3)", "w=[0,1", "w=[ramp(0,4"]
    assert quoted(arguments) == arguments


def test_from_the_command_line_to_the_plan() -> None:
    arguments = ["w=[ramp(0,4),interval(4,0.3,0.9),[0.58,2.0],2]", "policy=blocks(0|1;confidence(temperature=0.5))"]
    plan = plan_of(composed(*quoted(arguments), "temperature=0.7", "top_p=0.9"))
    assert [g.w for g in plan.guidances] == [LinearRamp(0, 4), Interval(4, 0.3, 0.9), PerCount([0.58, 2.0]), 2.0]
    assert plan.sampler.policy == Blocks([[0], [1]], within=Confidence(0.5))
    assert {(g.temperature, g.top_p) for g in plan.guidances} == {(0.7, 0.9)}
    plan = plan_of(composed("w='[ramp(0,4),2]'", "policy='fixed_order(1,0)'", "events=2", "sampler=event_leaping"))
    assert [g.w for g in plan.guidances] == [LinearRamp(0, 4), 2.0]
    assert plan.sampler.policy == FixedOrder([1, 0]) and plan.sampler.events == 2 and plan.sampler.steps is None


DATA = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))


@pytest.mark.parametrize("data", DATA)
def test_every_recipe_keeps_the_data_that_were_named_and_a_short_one_takes_less_time_alone(data: str) -> None:
    recipe = recipe_of(data, CONFIGS)
    given = with_recipe([f"data={data}"], CONFIGS)
    assert given == ([f"data={data}"] if recipe is None else [f"experiment={recipe}", f"data={data}"])
    if recipe is None:
        return
    is_short = recipe.startswith("short/")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", given)
        alone = compose("train", [f"data={data}"])
        full = compose("train", [f"experiment={recipe.removeprefix('short/')}", *given[1:]]) if is_short else None
    assert config.data._target_ == alone.data._target_
    if not data.startswith("toy"):
        assert config.objective._target_ != alone.objective._target_  # the default averages over all partial states
    if full is not None:
        assert all(config[part] == full[part] for part in ("net", "objective", "optimizer", "sampler"))
        assert config.max_time <= "00:00:02:00" < full.max_time and config.num_samples <= full.num_samples


@pytest.mark.parametrize(
    ("given", "recipe"),
    [
        ([], None),
        (["data=toy_1d_overlap"], None),
        (["data=nothing"], None),
        (["data=table", "seed=1"], None),
        (["data=idx", "w=[0]"], "short/mnist"),
        (["data=idx", "experiment=fashion_mnist"], None),
        (["-m", "data=mnist,idx"], "short/mnist"),
        (["data='text'", "data.path=x.txt"], "short/hmm"),
        (['data="text"', "data.path=x.txt"], "short/hmm"),
        (["-m", "data=choice(tiny_mnist_3x3,tiny_mnist_3x4)"], "tiny_mnist"),
        (["-m", "data=choice('tiny_mnist_3x3',tiny_mnist_3x4)"], "tiny_mnist"),
        (["-m", "data=glob(tiny_*)"], "tiny_mnist"),
        (["-m", "data=glob([tiny_*],exclude=*4x4)"], "tiny_mnist"),
        (["-m", "data=shuffle(mnist,idx)"], "short/mnist"),
        (["-m", "data=sort(idx,mnist)"], "short/mnist"),
        (["data=toy_2d_overlap", "data=text"], "short/hmm"),
        (["data=[text]", "data.path=x.txt"], "short/hmm"),
        (["data=['text']", "data.path=x.txt"], "short/hmm"),
        (["data=glob(nothing*)"], None),
        (["data=text", "experiment='hmm'"], None),
        (["~data"], None),
    ],
)
def test_the_recipe_is_that_of_what_hydra_will_take(given: list[str], recipe: str | None) -> None:
    assert with_recipe(given, CONFIGS) == ([] if recipe is None else [f"experiment={recipe}"]) + given


@pytest.mark.parametrize("more", [(), ("-m", "seed=0,1")])
def test_a_run_is_named_and_shown_by_what_was_given_without_the_recipe(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def noted(_: str, __: Any, overrides: list[str], ___: Path | None) -> Outcome:
        found.append(overrides)
        return Outcome()

    monkeypatch.setattr(cli, "_work", noted)
    assert run("train", *more, "data=tiny_mnist_3x3", f"runs={tmp_path}") == 0
    assert len(found) == (2 if more else 1)
    assert not any("experiment" in override for overrides in found for override in overrides)


@pytest.mark.parametrize(
    ("data", "recipes"),
    [
        ("mnist,toy_2d_overlap", "mnist.*short/mnist.*toy_2d_overlap"),
        ("choice('mnist',toy_2d_overlap)", "mnist.*short/mnist.*toy_2d_overlap"),
        ("glob(hmm_*)", "hmm"),
        ("glob(*)", "mnist"),
    ],
)
def test_a_sweep_over_data_of_several_recipes_is_refused(data: str, recipes: str) -> None:
    with pytest.raises(UserError, match=recipes):
        with_recipe(["-m", f"data={data}"], CONFIGS)


UNREADABLE = ["[0,2", "[0,2]]", "[0,2)", "it's", '"a', "a!b", "[0,,2]", "a=b", "a;b", "a`b", "~/x", "a\\'b!"]


@pytest.mark.parametrize("value", UNREADABLE)
def test_why_an_argument_cannot_be_read_is_said_in_our_words(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argument = f"name={value}"
    said = refusal(capsys, "eval", argument, f"out={tmp_path / 'out'}")
    assert argument in said
    assert not re.search("viable|extraneous|mismatched|recognition|EOF|Exception", said)
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None, max_examples=200)
@given(st.text("ab'\"\\!;,=([{}]) #&é$", min_size=1, max_size=8))
def test_text_in_the_proposed_quotes_is_read_as_it_is(value: str) -> None:
    said = comma_outside_brackets(f"name={value}")
    proposed = said[said.index("'name=\"") : said.rindex(" -m name=")]
    (argument,) = shlex.split(proposed[: proposed.rindex("\"'") + 2])
    assert OverridesParser.create().parse_override(argument).value() == value


@pytest.mark.parametrize(
    ("argument", "plain"),
    [
        ("w=\N{MINUS SIGN}0.5", "w=-0.5"),
        ("w=\N{LEFT DOUBLE QUOTATION MARK}[0,1]\N{RIGHT DOUBLE QUOTATION MARK}", 'w="[0,1]"'),
        ("\N{LEFT SINGLE QUOTATION MARK}w=[0,1]\N{RIGHT SINGLE QUOTATION MARK}", "'w=[0,1]'"),
        ("seed=\N{FULLWIDTH DIGIT THREE}", "seed=3"),
        ("w=[0,\N{NO-BREAK SPACE}\N{EN DASH}1]", "w=[0, -1]"),
    ],
)
def test_characters_that_only_look_like_those_of_a_keyboard_are_named(
    argument: str, plain: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "eval", "denoiser=exact", argument)
    assert argument in said and plain in said.replace(argument, "")


SWEPT = ("w=0,2", "seed=1,2", "data.path=a b,c", "w=choice(0,1)", "seed=range(1,3)")


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        *((argument, [f"-m {argument}"]) for argument in SWEPT),
        *((f"--{argument}", [argument]) for argument in ("w=[0,2]", "net.width=3", "seed=1")),
        *((f"study.{key}=2", [f"study.{key}", "study=NAME"]) for key in ("num_draws", "targets")),  # of other studies
    ],
)
def test_what_is_meant_is_named(argument: str, named: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "eval", "denoiser=exact", "data=toy_1d_overlap", argument)
    assert all(text in said for text in named)
    assert "multirun" not in said and "TableReport" not in said
