"""What a user can mend is one sentence and code 2; what is our fault keeps its traceback."""

from __future__ import annotations

import errno

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from mdlm_cfg.app.errors import FAULT, USER_ERROR, Failure, exit_with, sentence
from mdlm_cfg.support.errors import UserError


def failed(settings: dict) -> InstantiationException:
    with pytest.raises(InstantiationException) as found:
        instantiate(settings)
    return found.value


@pytest.mark.parametrize(
    "error", [ValueError("values"), TypeError("NoneType"), KeyError("x"), RuntimeError("a bug"), AssertionError()]
)
def test_any_other_error_is_a_fault_with_its_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence(error) is None
    with pytest.raises(SystemExit) as ended:
        exit_with([Failure("", error)])
    assert ended.value.code == FAULT
    assert type(error).__name__ in capsys.readouterr().err


def test_users_errors_are_one_line_each_and_name_their_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        exit_with([Failure("w=[1] seed=0", UserError("w is\nbad")), Failure("w=[2] seed=1", UserError("worse"))])
    assert ended.value.code == USER_ERROR
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines == ["error in job 'w=[1] seed=0': w is bad", "error in job 'w=[2] seed=1': worse"]


def test_one_fault_among_users_errors_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        exit_with([Failure("a", UserError("mend me")), Failure("b", ZeroDivisionError("ours"))])
    shown = capsys.readouterr().err
    assert ended.value.code == FAULT and "mend me" in shown and "ZeroDivisionError: ours" in shown


def test_nothing_failed_nothing_exits() -> None:
    exit_with([])


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR])
def test_places_that_cannot_be_used_are_named(code: int) -> None:
    said = sentence(OSError(code, "why", "runs/here"))
    assert said is not None and said.startswith("runs/here cannot be used: why")


def test_memory_is_a_sentence() -> None:
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    ):
        said = sentence(error)
        assert said is not None and "not enough memory" in said


def test_a_wrong_argument_of_a_configured_object_names_its_key() -> None:
    said = sentence(failed({"_target_": "torch.nn.Linear", "in_features": 2, "out_feature": 2}))
    assert said is not None and "out_feature" in said
    said = sentence(failed({"_target_": "lightning.pytorch.Trainer", "accelerator": "abacus"}))
    assert said is not None and "abacus" in said


def test_a_fault_inside_our_own_constructor_is_not_the_users() -> None:
    # a ValueError that is no UserError, raised in this package's own code
    settings = {"_target_": "mdlm_cfg.support.progress.time_left", "seconds": float("nan"), "done": 0.5}
    assert sentence(failed(settings)) is None


@given(st.text(min_size=1).filter(lambda text: text.strip() != ""))
def test_a_sentence_is_one_line(text: str) -> None:
    said = sentence(UserError(text))
    assert said is not None and "\n" not in said
