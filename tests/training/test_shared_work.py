"""Samples that several processes draw are those that one draws."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from harness import small_trainer
from helpers import random_target, samples_of
from lightning.pytorch import Callback

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies import draws as module
from mdlm_cfg.studies.draws import Draw, draws_of
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.cache import Cache, no_cache
from mdlm_cfg.training.predicting import share_work

TESTS = Path(__file__).parent.parent
PLAN = Plan((Guidance(0.0), Guidance(2.0)), Sampler("tau_leaping", 3), num_samples=25, seed=3)
SCRIPT = f"""
import sys
from pathlib import Path

sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / "training")!r}]
from test_shared_work import shared

if __name__ == "__main__":
    shared(Path(sys.argv[1]) / "ddp", devices=2, strategy="ddp")
"""


def network() -> NetDenoiser:
    torch.manual_seed(0)
    return NetDenoiser(GridTransformer(2, (2, 2), 2, width=16, depth=1, num_heads=2))


def all_draws(denoiser: NetDenoiser) -> list[list[Draw]]:
    """25 samples in chunks of 10, of two classes at two strengths, by a network and an exact denoiser."""
    module.CHUNK = 10
    pairs = [(g, k) for g in PLAN.guidances for k in (0, 1)]
    exact = random_target(2, 4).denoiser()
    return [
        draws_of(PLAN, used, g, k, who) for g, k in pairs for who, used in (("exact", exact), ("learned", denoiser))
    ]


def shared(folder: Path, about: object = "about", **changes: object) -> None:
    """What every process does."""
    denoiser = network()
    pieces = [draw for draws in all_draws(denoiser) for draw in draws]
    folder.mkdir(exist_ok=True)
    trainer = small_trainer(folder, **changes)
    mine = Cache(folder / ("kept" if trainer.is_global_zero else "of another process"), about)
    share_work(trainer, pieces, denoiser.net, mine)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", module.CHUNK)  # put back after `all_draws`


def never() -> torch.Tensor:
    raise AssertionError("it was to be there")


def check(folder: Path) -> None:
    """All pieces are there, each once, and the samples are those of one process that keeps nothing."""
    keep = Cache(folder / "kept", "about")
    sets = all_draws(network())
    assert len(keep) == sum(len(draws) for draws in sets) == 24
    for draws in sets:
        assert [draw.num_samples for draw in draws] == [10, 10, 5]
        assert torch.equal(torch.cat([keep(draw.key, never) for draw in draws]), samples_of(draws, no_cache))
    assert not (folder / "of another process").exists()


def test_one_process_makes_every_piece_once(tmp_path: Path) -> None:
    shared(tmp_path)
    check(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    shared(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == before


def test_an_interrupt_before_drawing_leaves_the_next_one_heard(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def setup(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    trainer = small_trainer(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    trainer.callbacks.append(Interrupt())
    with pytest.raises(SystemExit):
        share_work(trainer, [], None, Cache(tmp_path, "about"))
    assert signal.getsignal(signal.SIGINT) is before is not signal.SIG_IGN


@pytest.mark.slow
def test_two_processes_make_the_pieces_of_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "ddp")


def test_chunks_are_independent_and_the_first_is_what_few_samples_are(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = all_draws(network())[0]
    parts = [draw.make() for draw in draws]
    assert not torch.equal(parts[0], parts[1])
    few = PLAN.sampler.draw(
        draws[0].denoiser, PLAN.guidances[0], 0, 10, PLAN.generator("samples", PLAN.guidances[0], 0, "exact")
    )
    assert torch.equal(parts[0].long(), few)


def test_values_that_do_not_fit_a_byte_are_kept_whole() -> None:
    target = random_target(300, 1)
    (draw,) = draws_of(PLAN, target.denoiser(), Guidance(0.0), 0)
    assert draw.make().dtype == torch.int64
