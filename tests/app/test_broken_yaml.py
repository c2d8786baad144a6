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
