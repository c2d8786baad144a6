"""`python -m mdlm_cfg.sample`: samples of a run, and its name, which is a function's too."""

from __future__ import annotations

import importlib
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, TOY, Draws, refusal, run
from PIL import Image

import mdlm_cfg
from mdlm_cfg import Guidance, load_run, sample, terminal_law
from mdlm_cfg.app import sample_command
from mdlm_cfg.compare.metrics import histogram, total_variation
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.checkpoints import newest_run


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    assert run("train", *TOY, "logger=csv", f"runs={folder}", "evaluate=false", "sampler=d_cfg", "steps=3") == 0
    return newest_run(folder).parent.parent


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "samples.npz") as found:
        return dict(found)


def test_samples_are_the_runs_own_and_those_of_load_run(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (f"ckpt_path={toy}", "w=[0,2]", "n=30", "seed=3", f"out={tmp_path / 'out'}")
    assert run("sample", *arguments, "batch_size=8") == 0
    said = capsys.readouterr()
    assert str(tmp_path / "out" / "samples.npz") in said.out and str(toy) in said.err
    found = arrays(tmp_path / "out")
    trained = load_run(toy, batch_size=8)
    assert set(found) == {"w0", "w2", "classes"} and found["classes"].tolist() == [0, 1]
    assert found["w2"].shape == (2, 30, 1) and found["w2"].dtype == np.uint8
    own = trained.sample(1, w=2, n=30, sampler="d_cfg", steps=3, seed=3)  # as the run was told to
    assert np.array_equal(found["w2"][1], own.numpy())
    assert not np.array_equal(found["w2"][0], found["w2"][1]) and not np.array_equal(found["w0"][1], own.numpy())


def test_samples_follow_the_networks_law(toy: Path) -> None:
    trained = load_run(toy)
    x = trained.sample(1, w=2, n=20_000, seed=1)
    law = terminal_law(trained.denoiser, Guidance(2.0), 1)
    drawn = histogram(x, trained.denoiser.num_tokens)
    assert x.shape == (20_000, 1) and total_variation(drawn, law) < 0.02  # its expectation is about 0.01
    with pytest.raises(ValueError, match="n = 0"):
        trained.sample(1, n=0)


def test_images_are_a_picture_in_the_runs_folder(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    tokens = numbers.integers(0, 2, (40, 6, 4))
    labels = np.arange(40) % 3
    np.savez(tmp_path / "grid.npz", tokens=tokens, labels=labels, class_names=["a", "b", "c"])
    given = (f"data.path={tmp_path / 'grid.npz'}", "data.batch_size=10", "net.patch_size=2", f"runs={tmp_path}")
    assert run("train", *TINY, "data=tokens", *given, "logger=csv", "evaluate=false", "num_draws=1") == 0
    assert run("sample", f"runs={tmp_path}", "target_class=2", "w=1", "n=7") == 0
    assert run("sample", f"runs={tmp_path}", "w=[0,1]", "n=3", f"out={tmp_path / 'all'}") == 0
    (folder,) = (newest_run(tmp_path).parent.parent / "samples").iterdir()
    assert folder.name.endswith("_target_class-2+w-1+n-7")
    assert arrays(folder)["w1"].shape == (1, 7, 6, 4) and arrays(tmp_path / "all")["w0"].shape == (3, 3, 6, 4)
    for picture in (folder / "samples.png", tmp_path / "all" / "samples.png"):
        assert Image.open(picture).size[0] > 50
    assert not (folder / "samples.txt").exists()


def test_text_is_lines(tmp_path: Path) -> None:
    lines = [f"{label}\t{text}" for label, text in (("up", "abcd"), ("up", "abc"), ("down", "dcba")) for _ in range(4)]
    (tmp_path / "words.txt").write_text("\n".join(lines))
    given = (f"data.path={tmp_path / 'words.txt'}", "data.batch_size=4", "net.patch_size=1", f"runs={tmp_path}")
    assert run("train", *TINY, "data=text", *given, "logger=csv", "evaluate=false", "num_draws=1") == 0
    assert run("sample", f"runs={tmp_path}", "n=5", f"out={tmp_path / 'out'}") == 0
    written = [line.split("\t") for line in (tmp_path / "out" / "samples.txt").read_text().splitlines()]
    assert [(w, label) for w, label, _ in written] == [("w0", "down")] * 5 + [("w0", "up")] * 5
    values = arrays(tmp_path / "out")["w0"].reshape(10, 4)
    assert [text for *_, text in written] == ["".join("abcd"[v] for v in row if v < 4) for row in values]
    for number, changes in enumerate(("bcde", "dcba")):  # other data in the file since: their letters are not the run's
        new = "\n".join(lines).translate(str.maketrans("abcd", changes))
        (tmp_path / "words.txt").write_text(new.replace("eown", "down").replace("aown", "down"))
        assert run("sample", f"runs={tmp_path}", "n=5", f"out={tmp_path / str(number)}") == 0
        assert not (tmp_path / str(number) / "samples.txt").exists()
        assert (arrays(tmp_path / str(number))["w0"].reshape(10, 4) == values).all()


def test_the_function_keeps_its_name_beside_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mdlm_cfg.sample"
    for forgotten in (False, True):  # the function was asked for before the module, or was not
        monkeypatch.delitem(sys.modules, name, raising=False)
        if forgotten:
            monkeypatch.delattr(mdlm_cfg, "sample", raising=False)
        assert importlib.import_module(name) is sample
        assert mdlm_cfg.sample is sample


def test_the_command_is_a_module() -> None:
    found = subprocess.run([sys.executable, "-m", "mdlm_cfg.sample", "--help"], capture_output=True, text=True)
    assert found.returncode == 0 and found.stderr == ""
    assert "target_class=3 w=2 n=64" in found.stdout and "trainer=ddp" in found.stdout


@pytest.mark.parametrize("name", ["samples.npz", "samples.png", "samples.csv", "samples.txt", "samples.json"])
def test_samples_replace_no_file_of_anybody_elses(
    toy: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    refusal(capsys, "sample", f"ckpt_path={toy}", "w=1", "n=2", f"out={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_samples_replace_earlier_ones_and_leave_what_is_beside_them(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for w in (0, 1):
        assert run("sample", f"ckpt_path={toy}", f"w={w}", "n=2", f"out={tmp_path}") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "samples.json", "samples.npz"]
    assert set(arrays(tmp_path)) == {"w1", "classes"}


def test_an_interrupt_while_samples_are_drawn_leaves_no_folder(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = set(toy.rglob("*"))
    monkeypatch.setattr(sample_command, "_drawn", interrupted)
    assert run("sample", f"ckpt_path={newest_run(toy)}", "n=2") == 130
    assert set(toy.rglob("*")) == before


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (UserError, 2)])
def test_sampling_that_was_ended_goes_on_from_what_it_has(
    error: type[BaseException],
    code: int,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draws = Draws(monkeypatch, error)
    arguments = ("sample", f"ckpt_path={newest_run(toy)}", "n=20", "w=[0,2]")
    draws.most = 3
    assert run(*arguments, f"out={tmp_path / 'out'}") == code and len(draws.drawn) == 3
    assert str(tmp_path / "out" / "cache") in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cache"]
    draws.most = 4
    shares: list[float] = []
    monkeypatch.setattr(sample_command, "share_shown", lambda _: nullcontext(shares.append))
    assert run(*arguments, f"out={tmp_path / 'out'}") == 0
    assert abs(max(shares) - 1) < 1e-9  # of the piece that was left
    assert draws.drawn == [(0, 0), (0, 1), (2, 0), (2, 1)]
    draws.most = None
    assert run(*arguments, f"out={tmp_path / 'whole'}") == 0
    resumed, whole = (arrays(tmp_path / name) for name in ("out", "whole"))
    assert all(np.array_equal(resumed[key], whole[key]) for key in whole)
    assert not (tmp_path / "out" / "cache").exists()
