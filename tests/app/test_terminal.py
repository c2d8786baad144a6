"""Streams that cannot end a command: encodings without the characters that are written, and readers that have gone."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdlm_cfg.app.terminal import steady_streams

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
