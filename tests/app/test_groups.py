"""What is given for a group is a file's name, or refused in a sentence: hydra is asked for nothing that it fails on."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_cfg.app.cli import CONFIGS
from mdlm_cfg.app.groups import with_options
from mdlm_cfg.support.errors import UserError

KEPT = ["study=policies", "study=''", "study=[]", "study='1e30'", "study=policies,corpus", "study=glob(p*)"]
KEPT += ["w=1e30", "-m", "~study", "~data"]


def test_names_and_other_arguments_are_left_alone() -> None:
    assert with_options(KEPT, "train", CONFIGS) == KEPT


@pytest.mark.parametrize("value", ["1", "1e30", "-1e30", ".5", "1_000", "nan", "inf", "true", "{}", "{a:1}"])
def test_what_hydra_reads_as_no_name_is_refused(value: str) -> None:
    for argument in (f"study={value}", f"+study={value}", f"study={value},policies", f"data={value}"):
        with pytest.raises(UserError, match="names no file: choose one of"):
            with_options([argument], "train", CONFIGS)


def test_null_is_the_default_of_some_groups_and_of_others_none() -> None:
    assert with_options(["study=null", "seed=1"], "eval", CONFIGS) == ["seed=1"]
    for argument in ("data=null", "study=null,policies", "study=range(1,3)"):
        with pytest.raises(UserError, match="names no file"):
            with_options([argument], "eval", CONFIGS)


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
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), suppress(HydraException):
        compose("train", arguments)
