"""Nonsense is answered by one sentence, with exit code 2 and nothing left behind; whatever is wrong with it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from commands import EXACT, QUICK, TINY, TOY, refusal, run, table_file
from helpers import random_target
from hypothesis import HealthCheck, given, settings, strategies as st
from idx_files import write_images

from mdlm_cfg.app.refusals import options_apart
from mdlm_cfg.support.checked_io import load, store
from mdlm_cfg.support.schema import SCHEMAS
from mdlm_cfg.training.checkpoints import newest_run

BASES: dict[str, tuple[str, ...]] = {
    "train": ("train", *TINY, "logger=csv"),
    "train a toy": ("train", *TOY, "logger=csv"),
    "eval": ("eval", *EXACT),
    "eval a table": ("eval", *EXACT, "data=table", "target_class=1"),  # three classes of 2^4 states
    "eval any": ("eval", "denoiser=exact"),
    "eval a run": ("eval",),
    "sample a run": ("sample",),
}
OF_TRAINING = """
experiment=nope
data=nope
widht=3
net.widht=3
+net.widht=3
+trainer.widht=3
optimizer.lr=abc
optimizer=muon net.depth=0
objective=odd
objective._target_=mdlm_cfg.training.objectives.Odd
objective._target_=mdlm_cfg.nets.optimizer.adamw
net.class_head=true
ema_decay=1
net._target_=no_such_package.Net
net.num_heads=3
threads=0
threads=100000
+trainer.val_check_interval=0
+trainer.val_check_interval=100000
trainer.devices=0
trainer.strategy=odd
logger._target_=no_such_package.Logger
trainer.accelerator=tpu
trainer.accelerator=mps
trainer.max_time=5
max_time=soon
max_time=00:00:00:00
trainer.max_time={}
trainer.max_time={seconds:1e-9}
trainer.limit_train_batches=1e-9
trainer.strategy=ddp_spawn
trainer.precision=transformer-engine
+trainer.barebones=true
+trainer.enable_checkpointing=false
+trainer.callbacks=[3]
+trainer.logger=true
+trainer.plugins={_target_:lightning.pytorch.plugins.precision.DoublePrecision}
save_minutes=0
save_minutes=-1
=3
name=${nope}
runs=~/x
-m experiment=glob(paper/1d*)
-m seed=0,1 --cfg job
logger=wandb logger.mode=odd
ckpt_path=nowhere.ckpt
data=table
data=table data.path=nowhere.npz
data=datasets data.path=nowhere
data=images data.path=nowhere.npz
data=toy_1d_overlap study=corpus
objective=classifier data=toy_1d_overlap
keep_steps=[0]
w=calibrated
w=[0,calibrated(2)]
schedule=profile sampler=event_leaping
-m trainer=ddp seed=0,1
-m trainer.devices=2 seed=0,1
-m name=${seed} seed=0,1
+hydra.callbacks.mine={_target_:nowhere.Mine}
"""
OF_BOTH = """
paper=1d_overlap data=toy_2d_overlap w=[0,1]
paper=2d_overlap data=toy_1d_overlap
paper=1d_overlap data=toy_1d_disjoint
paper=1d_overlap data=toy_1d_overlap guidance=normalized
paper=nothing
w=[]
w={a:1}
~nothing
w=[0
w=[1,1]
w=[0,-2]
w=[1e308]
w=much
guidance=odd
sampler=odd
steps=5
sampler=tau_leaping steps=1000000000
sampler=euler steps=0
sampler=euler steps=[0,1]
sampler=euler steps=[0.5,inf]
sampler=euler steps=[0,inf] schedule=cosine
schedule=cosine
schedule=nonsense
target_class=2
seed=1e3
seed=[0,1]
num_samples=0
num_samples=100000000000000
classifier=2
sampler=sampled_confidence events=1 choice_temperature=1 annealed=-3
"""
OF_EVALUATION = """
denoiser=odd
+logger._target_=no_such_package.Logger
data=hmm_dialects num_samples=100000000000000
ckpt_path=somewhere
target_class=-1
data=hmm data.path=nowhere.npz
data=hmm_motif paper=1d_overlap
data=hmm_motif target_class=2
data=hmm_motif data.target.fidelity=2
data=hmm_motif study=sequences study.num_test=0
study=sequences
study=policies study.gumbel=2
study=policies policy=fixed_order(2,0,1)
study=policies w=[[1,2,3]]
study=policies paper=2d_overlap
study=inpainting study.num_free=3
study=correction sampler=euler
study=departure w=ramp(0,2)
-m seed=0,1 out=somewhere
"""
OF_RULES = """
guidance=compose(0:1e9)
guidance=negative(9)
guidance=negative(1)
guidance=tempered(1e-9)
guidance=negativ(2)
guidance=auto
guidance=auto weak.smoothing=0.2 weak.ckpt_path=somewhere
guidance=auto weak.smoothing=0
guidance=auto weak.smoothing=1.5
guidance=auto weak.smoothing=much
guidance=auto weak.ckpt_path=nowhere
guidance=auto weak.ckpt_path=
guidance=auto weak.ckpt_path=[1]
guidance=auto +weak.sharpness=2
weak.ckpt_path=somewhere
guidance=negative(2) weak.smoothing=0.2
guidance=classifier predictor.ckpt_path=nowhere
predictor.ckpt_path=somewhere
w=calibrated target_class=null
w=calibrated(-2)
w=calibrated(nan)
w=calibrated(x)
w=calibrated()
w=[calibrated,calibrated(0)]
w=calibrated(1) target_class=3
w=calibrated(1) guidance=negative(0)
schedule=profile sampler=event_leaping target_class=null
schedule=profile
schedule=profile sampler=euler
schedule=profile sampler=remdm
schedule=profile sampler=event_leaping events=2
schedule=profile sampler=event_leaping steps=[0,1,inf]
schedule=profile sampler=event_leaping steps=0
schedule=profile(x) sampler=event_leaping
schedule=profile(-2) sampler=event_leaping
schedule=profile sampler=sampled_confidence policy='blocks(0,1|2,3)'
schedule=profil sampler=event_leaping
events=[2,1] sampler=event_leaping
study=correction_moves study.num_reference=0
study=correction_moves study.classifier=false
study=correction study.num_reference=100
"""
OF_A_RUN = """
ckpt_path=nowhere.ckpt
w=[-1.5]
target_class=5
data=toy_2d_overlap
batch_size=0
batch_size=-1
num_samples=-1
target_class=-1
sampler=euler steps=0
sampler=euler steps=-1
"""
OF_SAMPLES = """
n=0
n=100000000000000
target_class=2
w=-2
ckpt_path=nowhere
targt_class=1
sampler=odd
seed=-1
trainer.devices=2
"""
ROWS = [  # what both commands refuse in the same way is tried for training by a few
    pytest.param(base, row, marks=[pytest.mark.slow] if base == "train a toy" and k % 4 else [])
    for base, rows in [
        *(("train", OF_TRAINING), ("train a toy", OF_BOTH), ("eval", OF_BOTH), ("eval", OF_EVALUATION)),
        *(("eval a table", OF_RULES), ("eval a run", OF_A_RUN), ("sample a run", OF_SAMPLES)),
    ]
    for k, row in enumerate(rows.split("\n")[1:-1])
]


def left_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return table_file(tmp_path_factory.mktemp("table"), random_target(2, 4, 3, seed=8))


@pytest.mark.parametrize(("base", "row"), ROWS)
def test_it_is_refused_by_name(
    base: str,
    row: str,
    runs: Path,
    table: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = runs if base.endswith("a run") else tmp_path
    before = left_in(folder)
    more = table if base == "eval a table" else ()
    said = refusal(capsys, *BASES[base], f"runs={folder}", *more, *row.split())
    assert any(part in said for part in re.findall(r"[a-z]{2,}|w|\d+", row))
    assert left_in(folder) == before


SCALARS = st.one_of(
    st.integers(-3, 3).map(str),
    st.sampled_from(["1e30", "-1e30", "nan", "inf", "null", "true", "''", "[]", "{}"]),
    st.text("abcxyz_", min_size=1, max_size=6),
    st.lists(st.integers(-2, 2), max_size=3).map(lambda values: str(values).replace(" ", "")),
)
KEYS = ("w", "target_class", "guidance", "sampler", "schedule", "steps", "num_samples", "seed", "paper")


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.dictionaries(st.sampled_from(KEYS), SCALARS, min_size=1, max_size=3))
def test_any_configuration_is_answered_or_refused_in_a_sentence(
    chosen: dict[str, str], tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    given_ = [f"{key}={value}" for key, value in ({"num_samples": "20", "w": "[1]"} | chosen).items()]
    capsys.readouterr()
    code = run("eval", "denoiser=exact", "data=toy_1d_overlap", f"runs={folder}", *given_)
    said = capsys.readouterr().err.splitlines()
    assert code in (0, 2), said
    if code == 2:
        assert len(said) == 1 and said[0].startswith("error: ") and left_in(folder) == []
    else:
        assert len(list(folder.rglob("report.json"))) == 1


# files of configuration


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"w: 1\nseed: [8\nname: a\n", "3"),  # which is where it stops making sense
        (b"seed: 8\nname:\ta\n\tb: c\n", "2"),
        (b"seed: 8\nseed: 9\n", "2"),
        (b"seed: 8\n\nname: \xe9\n", "UTF"),
        (b"\xef\xbb\xbf# @package _global_\nseed: 8\n", "UTF"),
        (b"seed: 8\nname: {a\n", "3"),
        (b"seed: 8 # \x01\n", ""),
        ("seed: 3\n".encode("utf-16"), "UTF"),
        (b"5\n", None),
        (b"# @package _global_\n1.5\n", None),
        (b"seed: 3\n", None),
        (b"- 1\n", None),
        (b"", None),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    content: bytes, named: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    for name in ("another", "mine"):  # the file that was asked for is named among unreadable ones
        (tmp_path / "experiment" / f"{name}.yaml").write_bytes(content)
    for option in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        said = refusal(capsys, "train", *option, "experiment=mine", f"runs={tmp_path}")
        where = rf"{tmp_path}/experiment/mine\.yaml\D*{named}\b"
        assert re.search("# @package _global_|configuration file" if named is None else where, said)


@given(st.randoms(use_true_random=False))
def test_options_may_stand_anywhere(random: Random) -> None:
    settings = ["seed=1", "w=[0]", "~study", "+x=${y}"]
    parts = [
        ["-m"],
        ["--config-dir", "a"],
        ["-cn", "b"],
        ["--info", "defaults"],
        ["--cfg=job"],
        *([one] for one in settings),
    ]
    random.shuffle(parts)
    found = options_apart([one for part in parts for one in part])
    options = found[1 + len(settings) :]
    assert found[0] == "-m" and sorted(found[1 : 1 + len(settings)]) == sorted(settings)
    assert all(options[options.index(name) + 1] == value for name, value in (("--config-dir", "a"), ("-cn", "b")))
    assert options_apart(found) == found and options_apart(["--info", "w=[0]"]) == ["w=[0]", "--info"]


def test_a_folder_of_files_may_be_named_after_settings(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("defaults:\n  - toy_1d_overlap\n")
    given = ("denoiser=exact", "num_samples=9", "--config-dir", str(tmp_path), "data=mine", "w=[1]")
    assert run("eval", *given, f"runs={tmp_path / 'runs'}") == 0


@pytest.mark.parametrize(
    "given",
    [
        *(("+sede=3",), ("++sede=3",), ("+sede={a:1}",), ("~seed",), ("~data",), ("~w",)),
        *(("--resolve",), ("--shell-completion",), ("--experimental-rerun", "x")),
        *(
            (f"{sign}data.bach_size=3", f"data={data}")
            for sign in ("+", "++")
            for data in ("toy_1d_overlap", "tiny_mnist_3x3")
        ),
    ],
)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_what_no_setting_is_is_not_ignored(
    command: str, given: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("denoiser=exact",) if command == "eval" else ()
    refusal(capsys, command, *more, *given, f"runs={tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_settings_refer_to_may_be_added(tmp_path: Path) -> None:
    judge = ("eval", "denoiser=exact", "data=toy_1d_overlap", "w=[1]", f"runs={tmp_path}")
    assert run(*judge, "+base=9", "num_samples=${base}") == 0


@pytest.mark.parametrize("content", ["defaults: 3\n", "- 1\n", "defaults:\n  - nothing: a\n"])
def test_a_primary_file_of_nonsense_is_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    assert refusal(capsys, "train", "--config-dir", str(tmp_path), "--config-name=mine")


def test_a_file_that_holds_itself_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text("&a [*a]\n")
    assert refusal(capsys, "eval", *EXACT, "--config-dir", str(tmp_path), "study=mine")
    assert "objective" in refusal(capsys, "train", "--config-name=eval", f"runs={tmp_path}")  # of another command


# sweeps and faults


@pytest.mark.parametrize("place", [1, 3])
def test_every_failing_job_is_named_and_the_others_are_done(
    place: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given_ = [*EXACT, "w=-2,1,-3", f"runs={tmp_path}"]
    assert run("eval", *given_[:place], "-m", *given_[place:]) == 2  # it may be asked for anywhere
    lines = [line for line in capsys.readouterr().err.splitlines() if "'w=" in line]
    assert len(lines) == 2 and "'w=-2'" in lines[0] and "'w=-3'" in lines[1]
    assert len(list(tmp_path.rglob("report.json"))) == 1


def test_faults_of_our_own_keep_their_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("ours")  # no UserError

    with monkeypatch.context() as patch:
        patch.setattr("mdlm_cfg.studies.laws.evaluation_of", broken)
        for arguments in ((f"out={tmp_path / 'out'}",), ("-m", "w=1,-2", f"runs={tmp_path}")):
            assert run("eval", *EXACT, *arguments) == 1
            said = capsys.readouterr().err
            assert "Traceback" in said and "ValueError: ours" in said
    assert "w = -2.0" in said  # a fault among jobs hides no other error
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # a user's error too, where it is asked for
    assert run("eval", *EXACT, "w=[-2]") == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.splitlines()[-1].startswith("error: ")
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


# checkpoints, data and places


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("net", "no_such_package.Net"),
        ("data", "no_such_package.data.Table"),
        ("data", "mdlm_cfg.training.data.nothing.Table"),
        ("data", "mdlm_cfg.training.data.idx.subprocess.run"),
        ("data", "mdlm_cfg.training.data.Path"),
        ("data", "os.system"),
        ("data", ""),
        ("data", None),
    ],
)
def test_a_checkpoint_that_names_what_is_not_there(
    runs: Path, part: str, name: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(newest_run(runs), weights_only=True)
    saved = content["hyper_parameters"] if part == "net" else content["hyper_parameters"]["config"]
    if name is None:
        del saved[part]
    else:
        saved[part]["_target_"] = name
    torch.save(content, tmp_path / "last.ckpt")
    said = refusal(capsys, "eval", f"ckpt_path={tmp_path / 'last.ckpt'}")
    assert part in said and (name or "") in said
    assert left_in(tmp_path) == [tmp_path / "last.ckpt"]


def test_a_damaged_checkpoint(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "last.ckpt"
    whole = newest_run(runs).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for command in (("eval",), ("train", *TOY, "logger=csv", f"runs={tmp_path}")):
        assert str(path) in refusal(capsys, *command, f"ckpt_path={path}")


def test_data_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path)
    images = ("data=idx", f"data.path={tmp_path}")
    assert "denoiser=exact" in refusal(capsys, "eval", "denoiser=exact", *images)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03 cut")
    before = left_in(tmp_path)
    said = refusal(capsys, "train", *TINY, *images, "logger=csv", f"runs={tmp_path}")
    assert "train-images-idx3-ubyte" in said and left_in(tmp_path) == before


@pytest.mark.slow
def test_a_setting_of_the_data_may_change_on_the_way(runs: Path, tmp_path: Path) -> None:
    assert run("eval", f"runs={runs}", "data.num_test=100", "num_samples=20", f"out={tmp_path}") == 0
    assert json.loads((tmp_path / "report.json").read_text())["judged"] == "learned"


def test_places_that_cannot_hold_a_report(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "taken"
    file.write_text("mine")
    for more in (EXACT, (f"runs={runs}",)):
        said = refusal(capsys, "eval", *more, f"out={file}")
        assert str(file) in said and "out=" in said
    for more in (("eval", *EXACT), ("train", *QUICK)):
        for place in (str(file), f"{file}/below"):
            said = refusal(capsys, *more, f"runs={place}")
            assert str(file) in said and "runs=" in said and "out=" not in said
    for command in ("eval", "sample"):
        said = refusal(capsys, command, f"runs={file}")
        assert str(file) in said and "runs=" in said and "train.py" not in said
    assert "ckpt_path=FILE" in refusal(capsys, "eval", f"runs={tmp_path}")
    assert file.read_text() == "mine" and left_in(tmp_path) == [file]


def test_a_place_that_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Path.mkdir

    def denied(self: Path, *arguments: Any, **settings: Any) -> None:
        if "shut" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        right(self, *arguments, **settings)

    # who runs the tests may be allowed everywhere: what counts is what is said of the file system's answer
    monkeypatch.setattr(Path, "mkdir", denied)
    for more in (("eval", *EXACT), ("train", *QUICK)):
        said = refusal(capsys, *more, f"runs={tmp_path / 'shut'}")
        assert str(tmp_path / "shut") in said and "Permission denied" in said


@pytest.mark.parametrize("option", ["--config-dir {}", "--config-dir={}", "-cd {}", "--config-path {}"])
def test_a_folder_of_files_that_may_not_be_entered_is_named(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = os.stat

    def denied(path: Any, **settings: Any) -> os.stat_result:
        if str(path).startswith(f"{tmp_path}/."):
            raise PermissionError(13, "Permission denied", str(path))
        return right(path, **settings)

    monkeypatch.setattr(os, "stat", denied)  # who runs the tests may be allowed everywhere
    said = refusal(capsys, "train", *option.format(tmp_path).split(), "experiment=mine")
    assert str(tmp_path) in said and "Permission denied" in said


@pytest.mark.parametrize("command", SCHEMAS)
def test_a_mapping_in_place_of_a_list_is_refused_with_its_key(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    lists = [key for key, value in vars(SCHEMAS[command]()).items() if isinstance(value, list)]
    assert "w" in lists
    for key in lists:
        for value in ("{a:1}", "{}"):
            said = refusal(capsys, command, f"{key}={value}")
            assert re.search(rf"\b{key}\s*=", said), said


OF_A_CHECKPOINT: dict[str, tuple[tuple[str, ...], Any]] = {
    "typo": (("net", "typo"), 1),
    "steps": (("config", "steps"), 3),
    "nix": (("config", "policy"), "nix"),
    "temperature": (("config", "temperature"), "x"),
    "odd": (("config", "weak"), {"odd": 3}),
}


def test_settings_of_a_checkpoint_are_refused_with_its_name_and_those_of_the_command_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *QUICK, "trainer.max_steps=1", f"runs={tmp_path}") == 0
    whole = newest_run(tmp_path)
    path = tmp_path / "changed.ckpt"
    for word, (place, value) in OF_A_CHECKPOINT.items():
        changed = load(whole)
        inner = changed["hyper_parameters"]
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        store(changed, path)
        for command in ("eval", "sample"):
            said = refusal(capsys, command, f"ckpt_path={path}")
            assert str(path) in said and word in said
    for command in ("eval", "sample"):
        assert str(whole) not in refusal(capsys, command, f"ckpt_path={whole}", "steps=3")
