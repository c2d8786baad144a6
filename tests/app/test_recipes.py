"""Data that are named alone bring their recipe: objective, network and optimizer that fit them."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from mdlm_cfg.app.cli import CONFIGS
from mdlm_cfg.app.recipes import recipe_of, with_recipe
from mdlm_cfg.support.errors import UserError

DATA = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))


def test_a_recipe_is_put_before_what_is_given() -> None:
    assert with_recipe(["data=idx", "w=[0]"], CONFIGS) == ["experiment=mnist", "data=idx", "w=[0]"]
    assert with_recipe(["-m", "data=mnist,idx"], CONFIGS) == ["experiment=mnist", "-m", "data=mnist,idx"]


@pytest.mark.parametrize(
    "arguments",
    [[], ["data=toy_1d_overlap"], ["data=idx", "experiment=fashion_mnist"], ["data=table", "seed=1"], ["data=nothing"]],
)
def test_otherwise_nothing_is_added(arguments: list[str]) -> None:
    assert with_recipe(arguments, CONFIGS) == arguments


def test_a_sweep_over_data_of_several_recipes_is_refused() -> None:
    with pytest.raises(UserError, match=r"mnist: mnist; toy_2d_overlap: the defaults"):
        with_recipe(["-m", "data=mnist,toy_2d_overlap"], CONFIGS)


@pytest.mark.parametrize("data", DATA)
def test_every_recipe_keeps_the_data_that_were_named(data: str) -> None:
    recipe = recipe_of(data, CONFIGS)
    given = with_recipe([f"data={data}"], CONFIGS)
    assert given == ([f"data={data}"] if recipe is None else [f"experiment={recipe}", f"data={data}"])
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        alone = compose("train", [f"data={data}"])
        config = compose("train", given)
    assert config.data._target_ == alone.data._target_
    if not data.startswith("toy") and recipe is not None:
        assert config.objective._target_ != alone.objective._target_  # the default averages over all partial states


@pytest.mark.parametrize(
    ("given", "recipe"),
    [
        (["data='text'", "data.path=x.txt"], "hmm"),
        (['data="text"', "data.path=x.txt"], "hmm"),
        (["-m", "data=choice(tiny_mnist_3x3,tiny_mnist_3x4)"], "tiny_mnist"),
        (["-m", "data=choice('tiny_mnist_3x3',tiny_mnist_3x4)"], "tiny_mnist"),
        (["-m", "data=glob(tiny_*)"], "tiny_mnist"),
        (["-m", "data=glob([tiny_*],exclude=*4x4)"], "tiny_mnist"),
        (["-m", "data=shuffle(mnist,idx)"], "mnist"),
        (["-m", "data=sort(idx,mnist)"], "mnist"),
        (["data=toy_2d_overlap", "data=text"], "hmm"),
        (["data=glob(nothing*)"], None),
        (["data=text", "experiment='hmm'"], None),
        (["~data"], None),
    ],
)
def test_the_recipe_is_that_of_what_hydra_will_take(given: list[str], recipe: str | None) -> None:
    assert with_recipe(given, CONFIGS) == ([] if recipe is None else [f"experiment={recipe}"]) + given


@pytest.mark.parametrize("data", ["glob(hmm_*)", "glob(*)", "choice('mnist',toy_2d_overlap)"])
def test_data_of_different_recipes_are_refused_however_they_are_swept(data: str) -> None:
    with pytest.raises(UserError):
        with_recipe(["-m", f"data={data}"], CONFIGS)
