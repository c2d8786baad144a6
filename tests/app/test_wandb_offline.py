"""Without a connection wandb asks for none, whatever it would say of itself."""

from __future__ import annotations

import time
from pathlib import Path

import conftest
import pytest
from commands import TOY, run
from forks import code_of, fork

REPORTS = pytest.importorskip("wandb.analytics.opentelemetry.opentelemetry_proxy")  # of wandb on itself, every minute


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_no_connection_is_asked_for(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(REPORTS, "_DEFAULT_EXPORT_INTERVAL_MILLIS", 200)

    def work() -> int:
        code = run("train", *TOY, "logger=wandb", f"logger.mode={mode}", f"runs={tmp_path}", "evaluate=false")
        time.sleep(2)
        print(conftest.ASKED)
        return 3 if conftest.ASKED else code

    log = tmp_path / "log"
    assert code_of(fork(work, log)) == 0, log.read_text()[-500:]
