"""What surrounds a command: errors, streams, Slurm, users without a name or a home, code of the user's own."""

from __future__ import annotations

import errno
import getpass
import io
import os
import resource
import signal
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from commands import EXACT, QUICK, TOY, refusal, report_in, run
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given, strategies as st
from lightning.pytorch.utilities import rank_zero_only
from torch._dynamo.exc import BackendCompilerFailed

from mdlm_cfg import UserError
from mdlm_cfg.app import cli, comparing, dashboards, eval_command, pages
from mdlm_cfg.app.build import for_own_targets, is_alone_in_slurm, rank_without_launcher
from mdlm_cfg.app.commands import INTERRUPTED
from mdlm_cfg.app.errors import FAULT, USER_ERROR, Failure, account_of, exit_with, sentence
from mdlm_cfg.app.session import _name_the_user
from mdlm_cfg.app.terminal import steady_streams
from mdlm_cfg.app.train_command import _how_to_resume
from mdlm_cfg.app.wandb_runs import keep_wandb_files_in
from mdlm_cfg.support.schema import TrainSchema
from mdlm_cfg.training.checkpoints import CONFIG
from mdlm_cfg.verify import command as verify, run as verification


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


@pytest.mark.parametrize("kind", [Exception, RuntimeError, ImportError, TypeError, ValueError, OSError, Warning])
def test_an_error_whose_text_fails_is_said_all_the_same(kind: type[Exception]) -> None:
    def fails(_: object) -> str:
        raise LookupError("no text")

    account = account_of(Failure("", type("Mute", (kind,), {"__str__": fails})()))
    assert "Mute" in account.text and "LookupError" not in account.said


@pytest.mark.parametrize("kind", [UserError, ValueError, RuntimeError, OSError, Warning, KeyError])
@pytest.mark.parametrize("letter", ["x", "x\n"])
def test_a_huge_text_of_an_error_is_cut(kind: type[Exception], letter: str) -> None:
    """A sweep keeps it in the record of a job, and a terminal shows it."""
    for full in (False, True):
        account = account_of(Failure("", kind(letter * 10**6)), full)
        assert len(account.said) < 5_000 and len(account.text) < 50_000


def test_users_errors_are_one_line_each_and_name_their_job(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        exit_with([Failure("w=[1] seed=0", UserError("w is\nbad")), Failure("w=[2] seed=1", UserError("worse"))])
    assert ended.value.code == USER_ERROR
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines == ["error in job 'w=[1] seed=0': w is bad", "error in job 'w=[2] seed=1': worse"]


@pytest.mark.parametrize(
    ("command", "module", "work"),
    [
        (partial(comparing.main, ["x"]), comparing, "_compare"),
        (partial(verify.main, ["out=x"]), verify, "_verify"),
        (partial(dashboards.main, ["x/y"]), dashboards, "_save"),
        (partial(pages.main, ["paper", "x", "y"]), pages, "_write"),
        (partial(run, "eval", *EXACT), cli, "_main"),
    ],
)
def test_every_command_says_that_it_was_interrupted(
    command: Callable[[], object],
    module: ModuleType,
    work: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, work, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        assert command() == INTERRUPTED
    except SystemExit as ended:
        assert ended.code == INTERRUPTED
    assert capsys.readouterr().err


def test_nothing_failed_nothing_exits() -> None:
    exit_with([])


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR])
def test_places_that_cannot_be_used_are_named(code: int) -> None:
    said = sentence(OSError(code, "why", "runs/here"))
    assert said is not None and "runs/here" in said and "why" in said


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_write_that_fails_without_a_name_is_a_sentence(code: int) -> None:
    assert "why" in str(sentence(OSError(code, "why")))


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_are_not_the_fault_of_the_file_that_is_opened(code: int) -> None:
    assert "runs/here" not in str(sentence(OSError(code, "why", "runs/here"))) and sentence(OSError(code, "why"))


@contextmanager
def disk_for(most: int) -> Iterator[None]:
    """Inside, a file of this process can have at most so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_noticed_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(eval_command, "evaluate", work)
    monkeypatch.setattr(verification, "verify", work)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with disk_for(1000):
        assert str(tmp_path / "a") in refusal(capsys, "eval", *EXACT, f"out={tmp_path / 'a'}")
        with pytest.raises(SystemExit) as ended:
            verify.main([f"out={tmp_path / 'b'}"])
    assert ended.value.code == 2 and str(tmp_path / "b") in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_itself_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "loop" in refusal(capsys, "train", "logger=csv", "data=text", f"data.path={tmp_path / 'loop'}")


def test_a_file_that_own_code_misses_is_no_working_directory() -> None:
    assert sentence(FileNotFoundError("no weights here")) is None  # which is said with its place
    assert "directory" in str(sentence(FileNotFoundError(errno.ENOENT, "No such file or directory")))


def test_a_warning_that_was_made_an_error_is_a_sentence() -> None:
    assert "old" in str(sentence(FutureWarning("old")))


def test_memory_is_a_sentence() -> None:
    errors = (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    )
    said = {sentence(error) for error in errors}
    assert len(said) == 1 and None not in said


OTHERS = ("RANK", "MPLBACKEND", "SOURCE_DATE_EPOCH", "LOCAL_RANK")  # which are read after seconds of imports


@pytest.mark.parametrize(
    "variable",
    ["TORCH_LOGS", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)],
)
def test_a_variable_that_a_library_cannot_read_is_named(variable: str) -> None:
    code = "import sys; sys.argv[1:] = ['denoiser=exact']; from mdlm_cfg.app.cli import evaluate; evaluate()"
    environment = os.environ | {variable: "nonsense"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == USER_ERROR and len(found.stderr.splitlines()) == 1
    assert f"{variable}=nonsense" in found.stderr


NAMED_ELSEWHERE = "OWN_VARIABLE"


@pytest.mark.parametrize("form", ["{!r} is no number", "Invalid settings: {}, must be a list"])
def test_a_variable_that_a_constant_names_is_found(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch does with TORCH_LOGS."""
    monkeypatch.setenv(NAMED_ELSEWHERE, "nonsense")
    with pytest.raises(ValueError, match="nonsense") as found:
        raise ValueError(form.format(os.environ[NAMED_ELSEWHERE]))
    assert f"{NAMED_ELSEWHERE}=nonsense" in (sentence(found.value) or "")
    monkeypatch.setenv(NAMED_ELSEWHERE, "something else")
    assert sentence(found.value) is None


def test_a_wrong_argument_of_a_configured_object_names_its_key() -> None:
    said = sentence(failed({"_target_": "torch.nn.Linear", "in_features": 2, "out_feature": 2}))
    assert said is not None and "out_feature" in said
    said = sentence(failed({"_target_": "lightning.pytorch.Trainer", "accelerator": "abacus"}))
    assert said is not None and "abacus" in said


@given(st.text(min_size=1).filter(lambda text: text.strip() != ""))
def test_a_sentence_is_one_line(text: str) -> None:
    said = sentence(UserError(text))
    assert said is not None and "\n" not in said
    assert not any(unicodedata.category(letter) == "Cc" for letter in said)  # a terminal would obey it


ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_text_can_be_written_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    with steady_streams():
        print("é 日 ━ \udce9")
        written = raw.getvalue()  # at the end of the line, and not of the command
    shown = written.decode(encoding)
    assert shown.endswith("\n") and ("é" in shown) == (encoding != "ascii") and ("日" in shown) == (encoding == "utf-8")


@pytest.mark.parametrize("columns", ["0", "1", "10", "100"])
def test_a_width_that_shows_nothing_does_not_count(
    columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert run("eval", *EXACT, "study=laws", "w=[1]", f"out={tmp_path}") == 0
    (row,) = report_in(tmp_path)["distances"]
    assert f"{row['tv_class_exact']:.4f}" in capsys.readouterr().out


def test_a_command_goes_on_without_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    stream = os.fdopen(writes, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    os.close(reads)
    with steady_streams():
        for _ in range(3):
            print("a line" * 10_000)
        print("the last one", flush=True)
    stream.close()


def test_a_command_goes_on_when_its_output_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    with steady_streams():
        sys.stdout.close()
        print("a line", flush=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
@pytest.mark.parametrize(("command", "code"), [(("eval", "--help"), 2), (("eval", *EXACT, "w=["), 2)])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_behind_a_stream_is_no_fault(
    stream: str, command: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, stream, full)
        assert run(*command) == (0 if (command[1], stream) == ("--help", "stderr") else code)


def test_any_other_fault_of_a_stream_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match="No space left"), steady_streams():
        print("a line")


def test_help_goes_to_a_reader_that_takes_one_line() -> None:
    code = "import sys; sys.argv[1:] = ['--help']; from mdlm_cfg.app.cli import train; train()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0


def test_a_command_sets_no_variable_for_the_processes_that_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes, a user's error in the second had a traceback."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    given: list[dict[str, str]] = []
    monkeypatch.setattr(cli, "_work", lambda *_: given.append(dict(os.environ)))
    before = dict(os.environ)
    assert run("eval", *EXACT, f"runs={tmp_path}") == 0
    assert given == [before] and dict(os.environ) == before


def test_what_torch_cannot_compile_is_an_error_of_the_user() -> None:
    """A machine without a C++ compiler, or whose compiler may not be used: without compile=true training works."""
    refused = PermissionError(errno.EACCES, "Permission denied", "c++")
    account = account_of(Failure("", BackendCompilerFailed(lambda: None, refused, None)))
    assert account.code == USER_ERROR and "compile" in account.said and "Permission denied" in account.said


ALLOCATION = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "mine"}


@pytest.mark.parametrize(
    ("more", "is_alone"),
    [
        ({}, True),  # the shell of salloc, or a batch script
        ({"SLURM_STEP_ID": "0", "SLURM_PTY_PORT": "4000"}, True),  # srun --pty bash
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "2"}, False),  # srun python train.py
        ({"TORCHELASTIC_RUN_ID": "none"}, False),  # torchrun in an allocation
    ],
)
def test_only_a_task_of_slurm_waits_for_the_others(more: dict[str, str], is_alone: bool) -> None:
    assert is_alone_in_slurm(ALLOCATION | more) is is_alone
    assert not is_alone_in_slurm(more)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"RANK": "3", "WORLD_SIZE": "4"}, 0),  # of a pod of a cluster, whose processes Lightning starts
        ({"RANK": "3", "LOCAL_RANK": "1"}, 1),  # one of these processes
        ({"NODE_RANK": "1"}, 1),
        ({"RANK": "3", "TORCHELASTIC_RUN_ID": "none"}, None),  # torchrun
        (ALLOCATION | {"SLURM_STEP_ID": "0", "SLURM_PROCID": "2"}, None),  # srun
    ],
)
def test_a_number_that_no_launcher_has_given_does_not_count(
    environment: dict[str, str], rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank_without_launcher({"devices": 2}) == rank
    assert rank_without_launcher({"devices": 1}) == 0


def test_training_in_an_allocation_is_as_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ALLOCATION.items():
        monkeypatch.setenv(name, value)
    arguments = ("trainer.max_epochs=1", "data.steps_per_epoch=2", "evaluate=false", "logger=csv")
    assert run("train", *TOY, *arguments, f"runs={tmp_path}") == 0


def test_a_run_of_one_process_is_whole_whatever_number_a_launcher_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as for the second task of srun
    for name, value in (ALLOCATION | {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS_PER_NODE": "4"}).items():
        monkeypatch.setenv(name, value)
    assert run("train", *QUICK, f"runs={tmp_path}") == 0
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert run("eval", *EXACT, "study=laws", "w=[1]", f"runs={tmp_path}") == 0
    (trained,) = tmp_path.rglob("last.ckpt")
    (judged,) = tmp_path.rglob("report.json")
    assert (trained.parent.parent / "metrics.csv").is_file() and (trained.parent.parent / CONFIG).is_file()
    assert "other_ranks" not in f"{trained} {judged}"


def test_only_the_first_process_knows_what_an_interrupted_run_has_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "last.ckpt"
    saved.touch()
    for rank, named in ((0, True), (1, False)):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        assert (saved.name in _how_to_resume(saved, None)) == named
    assert _how_to_resume(tmp_path / "none", None) == ""


def test_users_without_a_name_or_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOGNAME", "")  # so that it is put back afterwards
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    _name_the_user()
    assert getpass.getuser() == f"uid{os.getuid()}"
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, "")
        del os.environ[name]
    keep_wandb_files_in(tmp_path)
    assert Path(os.environ["WANDB_DATA_DIR"]).is_relative_to(tmp_path)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_what_is_written_has_the_permissions_that_the_user_gives(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        assert run("train", *QUICK, f"runs={tmp_path}") == 0
        assert run("eval", f"runs={tmp_path}", "num_samples=20", "w=[1]") == 0
    finally:
        os.umask(before)
    paths = list(tmp_path.rglob("*"))
    assert len(paths) > 10
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_a_process_that_has_gone_is_a_sentence() -> None:
    for text in (
        "[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer",
        "gloo: Connection closed by peer",
    ):
        assert "ckpt_path=auto" in str(sentence(RuntimeError(text)))
    assert sentence(RuntimeError("shapes do not match")) is None


def test_settings_of_an_experiment_are_those_of_the_optimizer_it_was_made_for() -> None:
    optimizer = {"_target_": "mdlm_cfg.nets.optimizer.adamw", "lr": 1e-3, "muon_lr": 2e-2}
    parts = TrainSchema(net={}, objective={}, optimizer=optimizer)
    assert set(for_own_targets(parts, ["optimizer=adamw"]).optimizer) == {"_target_", "lr"}
    assert "muon_lr" in for_own_targets(parts, ["optimizer=adamw", "optimizer.muon_lr=0.1"]).optimizer
    assert "muon_lr" in for_own_targets(parts, ["experiment=mnist"]).optimizer


def test_a_working_directory_that_is_gone_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert len({refusal(capsys, command) for command in ("train", "eval", "sample")}) == 1
