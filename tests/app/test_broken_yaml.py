"""Files of configuration that somebody wrote: what is wrong with one is said with its name and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import refusal


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"w: 1\nseed: [8\nname: a\n", 3),  # which is where it stops making sense
        (b"seed: 8\nname:\ta\n\tb: c\n", 2),
        (b"seed: 8\nseed: 9\n", 2),
        (b"seed: 8\n\nname: \xe9\n", 3),
        (b"seed: 8\nname: {a\n", 3),
    ],
)
def test_broken_yaml_is_a_sentence(content: bytes, line: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "experiment" / "mine.yaml"
    path.parent.mkdir()
    path.write_bytes(content)
    for option in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        said = refusal(capsys, "train", *option, "experiment=mine", f"runs={tmp_path}")
        assert f"{path}, line {line}," in said


def test_a_character_that_yaml_does_not_allow_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "experiment" / "mine.yaml"
    path.parent.mkdir()
    path.write_bytes(b"seed: 8 # \x01\n")
    assert str(path) in refusal(capsys, "train", f"--config-dir={tmp_path}", "experiment=mine", f"runs={tmp_path}")


def test_a_configuration_of_another_command_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "it lacks name, objective" in refusal(capsys, "train", "--config-name=eval", f"runs={tmp_path}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"5\n", b"# @package _global_\n5\n", b"true\n", b"1.5\n"])
def test_a_file_that_holds_no_settings_is_named(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "experiment").mkdir()
    for name in ("another", "mine"):
        (tmp_path / "experiment" / f"{name}.yaml").write_bytes(content)
    said = refusal(capsys, "train", "--config-dir", str(tmp_path), "experiment=mine", f"runs={tmp_path}")
    assert str(tmp_path / "experiment" / "mine.yaml") in said


def test_the_file_that_was_asked_for_is_named_among_unreadable_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "experiment").mkdir()
    for name in ("another", "mine"):
        (tmp_path / "experiment" / f"{name}.yaml").write_bytes("seed: 3\n".encode("utf-16"))
    said = refusal(capsys, "train", "--config-dir", str(tmp_path), "experiment=mine", f"runs={tmp_path}")
    assert str(tmp_path / "experiment" / "mine.yaml") in said


@pytest.mark.parametrize("content", ["defaults: 3\n", "- 1\n", "defaults:\n  - nothing: a\n"])
def test_a_primary_file_of_nonsense_is_a_sentence(content: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    assert refusal(capsys, "train", "--config-dir", str(tmp_path), "--config-name=mine")


@pytest.mark.parametrize("content", ["seed: 3\n", "- 1\n", ""])
def test_a_file_without_its_package_says_what_it_lacks(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(content)
    said = refusal(capsys, "train", "--config-dir", str(tmp_path), "experiment=mine", f"runs={tmp_path}")
    assert "# @package _global_" in said
