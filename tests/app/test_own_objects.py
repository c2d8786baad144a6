"""A sampler, guidance, policy, study and denoiser of one's own, by `_target_` on the command line."""

from __future__ import annotations

import json
import re
import sys
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from commands import EXACT, QUICK, own_module, refusal, run
from helpers import every_pair, random_target

from mdlm_cfg import FunctionDenoiser, report
from mdlm_cfg.app.merging import merged
from mdlm_cfg.app.overrides import with_objects
from mdlm_cfg.app.own import denoiser_of
from mdlm_cfg.app.settings import checked_guides, plan_of
from mdlm_cfg.app.study_choice import build_study
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.masking import mask_uniform
from mdlm_cfg.chain.policies import FixedOrder
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import called_in, calling
from mdlm_cfg.support.numbers import format_column
from mdlm_cfg.support.schema import EvalSchema
from mdlm_cfg.targets.toys import toy_1d_overlap
from mdlm_cfg.training.elbo import drop_labels

MODULE = """
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.chain.kinds import Rate
from mdlm_cfg.chain.policies import FixedOrder
from mdlm_cfg.chain.rules import ProductRule, Term
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.studies.findings import Block, Findings, Table, col
from mdlm_cfg.studies.protocol import Case, Needs, Piece


def all_at_once(log_z, u):
    return torch.ones_like(log_z)


ready = Sampler("all_at_once", steps=2, jump=all_at_once)


def to_power(log_z, u, power=1.0):
    return u**power + 0 * log_z


class ToPower:
    def __init__(self, power=1.0):
        self.power = power

    def __call__(self, log_z, u):
        return to_power(log_z, u, self.power)


def sampler_to_power(power=1.0):
    return Sampler("by_power", steps=3, jump=ToPower(power))


class Mine(Rate):
    name = "mine"


strong = Guidance(3.0)


class Half(ProductRule):
    def __init__(self, by=2.0):
        self.by = by

    def terms(self, w, target_class):
        return [Term(1 + w, target_class), Term(-w / self.by, None)]


def turned(u, log_z):
    return u + 0 * log_z


def answering(t, c):
    return torch.full((*t.shape, 4), 0.25).log()


def of_target(tokens, classes, target):
    return target.denoiser()(tokens, classes)


def of_target_or_none(tokens, classes, target=None):
    return flat(tokens, classes) if target is None else target.denoiser()(tokens, classes)


def halved(w, by=2.0):
    return Guidance(w / by)


def backwards(num_dims):
    return FixedOrder(tuple(reversed(range(num_dims))))


def flat(tokens, classes):
    return torch.full((*tokens.shape, 4), 0.25).log()


class Flat(torch.nn.Module):
    def __init__(self, values=4):
        super().__init__()
        self.values = values
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x, z):
        return self.dropout(torch.ones(*x.shape, self.values)).log_softmax(dim=-1)


def tilted(tokens, classes, by=0.0):
    return (by * torch.arange(4.0)).log_softmax(-1).expand(*tokens.shape, 4)


class Tilted:
    def __init__(self, by=0.0):
        self.by = by

    def __call__(self, tokens, classes):
        return tilted(tokens, classes, self.by)


def tilting(by=0.0):
    return lambda tokens, classes: tilted(tokens, classes, by)


def noisy(tokens, classes):
    return torch.randn(*tokens.shape, 4).log_softmax(-1)


class Called:
    def __call__(self, tokens, classes):
        return flat(tokens, classes)


module = Flat()
called = Called()


def exact(target):
    return target.denoiser()


@dataclass(frozen=True)
class Row:
    w: Guidance = col("w", index=True)
    mean: float = col("mean")


@dataclass(frozen=True)
class Means:
    times: int = 1
    needs: ClassVar[Needs] = Needs()

    def pieces(self, case):
        return [Piece(("mean", g.label), lambda g=g: self._mean(case, g), "drawing") for g in case.plan.guidances]

    def _mean(self, case, g):
        generator = case.plan.generator("mean", g, 0)
        x = case.plan.sampler.draw(case.denoisers[case.judged], g, 0, self.times, generator)
        return float(x.double().mean())

    def findings(self, case, made):
        rows = [Row(g, made["mean", g.label]) for g in case.plan.guidances]
        block = Block("means", rows, "Means", views=[Table(["w"], ["mean"])], logged=("mean",))
        return Findings(case.plan, [block], [f"{self.times} samples were drawn."])


class Said:
    needs: ClassVar[Needs] = Needs()

    def pieces(self, case):
        return []

    def findings(self, case, made):
        return Findings(case.plan, [], ["said"])
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's own, on the path."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def plan(**given: Any) -> Plan:
    return plan_of(replace(EvalSchema(), **given))


def test_a_sampler_of_ones_own(own: str) -> None:
    from_rule = plan(sampler={"_target_": f"{own}.all_at_once", "steps": 2}).sampler
    module = sys.modules[own]
    assert from_rule == Sampler("all_at_once", 2, jump=module.all_at_once)
    assert plan(sampler={"_target_": f"{own}.all_at_once"}, steps=3).sampler.steps == 3
    assert plan(sampler={"_target_": f"{own}.ready"}).sampler is module.ready
    assert plan(sampler={"_target_": f"{own}.ready", "steps": 5}).sampler.steps == 5
    with pytest.raises(UserError):  # an object has its own steps: others would be dropped in silence
        plan(sampler={"_target_": f"{own}.ready"}, steps=3)
    for wrong in ("flat", "Mine", "nothing", "turned"):
        with pytest.raises(UserError):
            plan(sampler={"_target_": f"{own}.{wrong}"})
    with pytest.raises(UserError):
        plan(sampler={"steps": 3})


def law_of(sampler: Sampler) -> torch.Tensor:
    return sampler.law(random_target(3, 2, seed=3).denoiser(), Guidance(2.0), 0)


@pytest.mark.parametrize("name", ["to_power", "ToPower", "sampler_to_power"])
def test_an_argument_of_a_sampler_of_ones_own_counts(name: str, own: str) -> None:
    found = [plan(sampler={"_target_": f"{own}.{name}", "power": power}).sampler for power in (1.0, 3.0)]
    module = sys.modules[own]
    for sampler, power in zip(found, (1.0, 3.0)):
        expected = Sampler("expected", steps=sampler.steps, jump=lambda log_z, u, k=power: u**k + 0 * log_z)
        assert torch.allclose(law_of(sampler), law_of(expected), atol=1e-14)
    assert float((law_of(found[0]) - law_of(found[1])).abs().max()) > 1e-2 and found[0].key != found[1].key
    assert plan(sampler={"_target_": f"{own}.sampler_to_power"}).sampler.jump.power == module.ToPower().power
    with pytest.raises(UserError):
        plan(sampler={"_target_": f"{own}.{name}", "powre": 2.0})


def test_a_strength_that_own_guidance_does_not_take_is_refused(own: str) -> None:
    fixed = {"_target_": f"{own}.strong"}
    for w, refused in (([0, 2], True), ([3.0], False), (3, False)):
        config = replace(EvalSchema(), guidance=fixed, w=w)
        assert plan_of(config).guidances == (Guidance(3.0),)  # where w is that of the files
        with pytest.raises(UserError, match="w = ") if refused else nullcontext():
            checked_guides(config, ["w=[0,2]"])
    config = replace(EvalSchema(), guidance={"_target_": f"{own}.halved", "by": 4.0}, w=[0, 2])
    checked_guides(config, ["w=[0,2]"])  # a function of w is asked for each


def test_options_of_a_jump_rule_that_is_made(own: str) -> None:
    given = {"_target_": f"{own}.ToPower", "power": 2.0, "steps": 4}
    for sampler in (plan(sampler=given, schedule="cosine"), plan(sampler=given | {"schedule": "cosine"})):
        assert (sampler.sampler.steps, str(sampler.sampler.schedule)) == (4, "cosine")
    with pytest.raises(UserError):  # what it makes has steps already
        plan(sampler={"_target_": f"{own}.sampler_to_power", "steps": 4})


def test_guidance_and_policy_of_ones_own(own: str) -> None:
    kinds = {type(g.kind).__name__ for g in plan(guidance={"_target_": f"{own}.Mine"}, w=[0, 2]).guidances}
    assert kinds == {"Mine"}
    halved = plan(guidance={"_target_": f"{own}.halved", "by": 4.0}, w=[0, 2]).guidances
    assert halved == (Guidance(0.0), Guidance(0.5))
    ruled = plan(guidance={"_target_": f"{own}.Half", "by": 4.0}, w=[0, 2]).guidances
    assert ruled == tuple(Guidance(w, rule=sys.modules[own].Half(4.0)) for w in (0.0, 2.0))
    order = {"_target_": f"{own}.backwards", "num_dims": 3}
    assert plan(policy=order).sampler.policy == FixedOrder((2, 1, 0))
    for wrong in ({"guidance": {"_target_": f"{own}.flat"}}, {"policy": {"_target_": f"{own}.Mine"}}, {"policy": 3}):
        with pytest.raises(UserError):
            plan(**wrong)


def test_own_code_that_changes_directory_moves_no_output(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    more = f"\nimport os\n\ndef ring():\n    os.chdir({str(tmp_path / 'elsewhere')!r})\n    return toy_1d_overlap()\n"
    (tmp_path / f"{own}.py").write_text(f"from mdlm_cfg.targets.toys import toy_1d_overlap{more}")
    ring = ("data=toy_1d_overlap", f"data.target._target_={own}.ring", "data.name=ring")
    judged = (*ring, "denoiser=exact", "num_samples=20", "w=[1]")
    assert run("train", *QUICK, *ring) == 0
    assert run("eval", *judged, "out=out") == 0
    assert run("eval", "-m", *judged, "seed=1,2", "hydra.sweep.dir=sweep") == 0
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"runs", "out", "sweep"}
    assert Path.cwd() == tmp_path / "here" and not list((tmp_path / "elsewhere").iterdir())


def test_a_denoiser_of_ones_own(own: str) -> None:
    target = toy_1d_overlap()
    data = SimpleNamespace(target=target, num_tokens=target.num_tokens, grid_shape=(1,), num_classes=2)
    tokens = torch.tensor([[target.num_tokens]])
    for name in ("exact", "of_target", "of_target_or_none"):
        found = denoiser_of({"_target_": f"{own}.{name}"}, data, {f"{own}.{name}"})
        assert torch.equal(found(tokens, torch.tensor([0])), target.denoiser()(tokens, torch.tensor([0])))
    with pytest.raises(UserError):
        denoiser_of({"_target_": f"{own}.answering"}, data, {f"{own}.answering"})
    data.num_tokens = 4
    for name, arguments in (("flat", {}), ("module", {}), ("called", {}), ("Flat", {}), ("Flat", {"values": 4})):
        flat = denoiser_of({"_target_": f"{own}.{name}", **arguments}, data, {f"{own}.{name}"})
        assert (flat.num_tokens, flat.num_dims, flat.num_classes) == (4, 1, 2)
        assert torch.allclose(terminal_law(flat, Guidance(2.0), 0), torch.full((4,), 0.25, dtype=torch.float64))
    for name in ("tilted", "Tilted", "tilting"):
        for by in (0.0, 2.0):
            found = denoiser_of({"_target_": f"{own}.{name}", "by": by}, data, {f"{own}.{name}"})
            expected = (by * torch.arange(4.0, dtype=torch.float64)).softmax(-1)
            assert torch.allclose(terminal_law(found, Guidance(2.0), 0), expected, atol=1e-6)
        with pytest.raises(UserError):
            denoiser_of({"_target_": f"{own}.{name}", "bye": 1.0}, data, {f"{own}.{name}"})
    with pytest.raises(UserError):
        denoiser_of({"_target_": f"{own}.halved", "w": 1.0}, data, {f"{own}.halved"})


@pytest.mark.parametrize("part", ["sampler", "guidance", "policy", "study"])
def test_what_only_a_checkpoint_names_is_not_imported(part: str, own: str) -> None:
    saved = {part: {"_target_": f"{own}.anything"}}
    config = EvalSchema()
    settings = merged(saved, config, [])
    assert getattr(settings, part) == saved[part]
    with pytest.raises(UserError):
        plan_of(settings, config)
        build_study(settings.study, config.study)
    assert own not in sys.modules


def test_settings_below_an_object_reach_hydra_as_mappings() -> None:
    given = ["sampler.steps=2,4", "sampler._target_=a.B,a.C", "+study.x.y='b c'", "net.width=3", "guidance=rate", "-m"]
    assert with_objects(given) == [
        "++sampler={_target_:a.B},{_target_:a.C}",
        "++sampler.steps=2,4",
        "++study={}",
        "++study.x.y='b c'",
        "net.width=3",
        "guidance=rate",
        "-m",
    ]
    own_net = ["net._target_=a.Net", "net.scale=2", "+net.width=8", "objective.rows=3"]
    assert with_objects(own_net) == ["net._target_=a.Net", "++net.scale=2", "++net.width=8", "objective.rows=3"]
    assert with_objects(with_objects(given)) == with_objects(given)


@pytest.mark.parametrize("value", ["", "a.B,"])
def test_what_names_nothing_is_said_as_it_was_typed(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "eval", *EXACT, f"study._target_={value}")
    assert "study" in said and "++" not in said, said


def test_all_of_ones_own_from_the_command_line(own: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ("data=toy_1d_overlap", "w=[0,2]", "logger=null", f"out={out}")
    own_study = (f"study._target_={own}.Means", "study.times=3")
    own_sampler = (f"sampler._target_={own}.all_at_once", "sampler.steps=1", f"guidance._target_={own}.Mine")
    assert run("eval", *settings, f"denoiser._target_={own}.exact", *own_study, *own_sampler) == 0
    report = json.loads((out / "report.json").read_text())
    assert [row["w"] for row in report["means"]] == [0.0, 2.0] and report["means"][0]["kind"] == "mine"
    assert report["plan"]["sampler"] == "all_at_once" and report["verdict"] == ["3 samples were drawn."]


def test_a_denoiser_that_answers_by_chance_is_refused(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("four.npz", class_pmfs=np.full((2, 4, 4), 1 / 16), class_weights=[0.5, 0.5])
    arguments = ("data=table", "data.path=four.npz", "w=[0]", "num_samples=9", "logger=null", "out=out")
    for name, code in (("flat", 0), ("noisy", 2)):
        assert run("eval", *arguments, f"denoiser._target_={own}.{name}", f"study._target_={own}.Means") == code
    thing = sys.modules[own].noisy
    with pytest.raises(UserError):
        report(FunctionDenoiser(thing, 4, 2, 2), num_samples=9, out="mine")
    assert not Path("mine").exists()


PARTS = ("denoiser", "sampler", "study", "guidance", "objective", "optimizer", "net", "data", "trainer", "logger")


LIBRARIES = ("os.path.join", "math.sqrt", "builtins.max", "torch.nn.Identity", "random.random")


@pytest.mark.parametrize(("part", "name"), every_pair([*PARTS, "study.own"], LIBRARIES))
def test_what_a_library_raises_is_the_users_who_named_it(
    part: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command, more = "eval", ("denoiser=exact",)
    if part in PARTS[4:]:
        command, more = "train", ("trainer.max_steps=1", "evaluate=false")
    key = f"{part}._target_"
    if part == "study.own":
        key, more = part, ("experiment=benchmark", "study.targets=[toy_1d_overlap]", "study.calls=[1]")
    given = [item for item in (*more, "data=toy_1d_overlap", "w=[1]", "num_samples=9") if f"{part}=" not in item]
    assert run(command, *given, f"{key}={name}") == 2
    assert not list(tmp_path.rglob("report.json"))


def test_an_error_of_our_own_is_not_the_users_who_named_what_called_it() -> None:
    for function, wrong, name in ((format_column, 3, None), (json.loads, 3, "mine"), (len, 3, "mine")):
        with pytest.raises(TypeError) as raised, calling("mine"):
            function(wrong)
        assert called_in(raised.value) == name


def test_a_sweep_over_settings_of_ones_own(own: str, tmp_path: Path) -> None:
    settings = ("-m", "denoiser=exact", "data=toy_1d_overlap", "w=[0]", "logger=null", f"runs={tmp_path}")
    own_sampler = (f"sampler._target_={own}.all_at_once", "sampler.steps=1,2", f"study._target_={own}.Means")
    assert run("eval", *settings, *own_sampler) == 0
    reports = [json.loads(path.read_text()) for path in tmp_path.rglob("report.json")]
    assert sorted(report["plan"]["steps"] for report in reports) == [1, 2]


def test_a_study_that_has_a_verdict_alone(own: str, tmp_path: Path) -> None:
    settings = ("denoiser=exact", "data=toy_1d_overlap", "w=[0]", "logger=null")
    assert run("eval", *settings, f"study._target_={own}.Said", f"out={tmp_path / 'a'}") == 0
    assert json.loads((tmp_path / "a" / "report.json").read_text())["verdict"] == ["said"]


def test_settings_of_the_default_study_need_no_name(tmp_path: Path) -> None:
    settings = ("denoiser=exact", "data=hmm_motif", "data.target.num_dims=4", "num_samples=10", "w=[0]", "logger=null")
    assert run("eval", *settings, "study.compare=false", f"out={tmp_path / 'a'}") == 0
    assert json.loads((tmp_path / "a" / "report.json").read_text()).get("samplers", []) == []
    assert run("eval", *settings, "study.orders=2", f"out={tmp_path / 'b'}") == 2
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("part", ["sampler", "guidance", "policy"])
@pytest.mark.parametrize(
    ("text", "said"), [("raise TypeError('of my own')", "of my own"), ("import no_such_library", "no_such_library")]
)
def test_an_error_of_an_import_is_where_it_is(
    part: str, text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(f"x = 1\n{text}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=rf"{said}.*{name}\.py, line 2"):
        plan(**{part: {"_target_": f"{name}.thing"}})
    with pytest.raises(UserError, match=f"_target_={name}.thing"):
        plan(**{part: f"{name}.thing"})


CANCELLED = "raise __import__('asyncio').CancelledError"
ENDINGS = ("raise SystemExit", CANCELLED, "exit(0)", "next(iter([]))", "1 +", "exec('exit(3)')")
MUTE = "raise type('Mute', (ValueError,), {'__str__': lambda self: 1 / 0})"
LONG = "raise ValueError('x' * 10_000)"
UNREADABLE = "open('no/such/file')"


@pytest.mark.parametrize(
    ("ending", "place"),
    every_pair([*ENDINGS, MUTE, LONG, UNREADABLE], list(product(("call", "import"), (False, True)))),
)
def test_own_code_that_ends_the_process_is_no_success(
    ending: str, place: tuple[str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    where, many = place  # in a sweep of several jobs, or not
    text = f"def flat(tokens, classes):\n    {ending}\n" if where == "call" else f"{ending}\nflat = None\n"
    name = own_module(tmp_path, text, monkeypatch)
    monkeypatch.chdir(tmp_path)
    sweep = ("-m", "seed=0,1", "hydra.sweep.dir=swept") if many else ()
    arguments = ("data=toy_1d_overlap", f"denoiser._target_={name}.flat", "w=[0]", "num_samples=9", "logger=csv")
    assert run("eval", *arguments, *sweep) == 2
    lines = capsys.readouterr().err.splitlines()
    assert re.search(rf"{name}\.py\D+\d", lines[-1]) and len(lines[-1]) < 2000
    assert not many or {json.loads(job.read_text())["state"] for job in tmp_path.glob("swept/*/job.json")} == {"failed"}


NET = """
import torch

class Ending(torch.nn.Module):
    calls = 0

    def __init__(self, num_tokens, grid_shape, num_classes):
        super().__init__()
        self.num_tokens, self.num_dims, self.num_classes = num_tokens, grid_shape[0], num_classes
        self.free = torch.nn.Parameter(torch.zeros(num_tokens))

    def forward(self, tokens, classes):
        Ending.calls += 1
        if Ending.calls == {last}:  # of both jobs
            {ending}
        return self.free.log_softmax(-1).expand(*tokens.shape, -1)
"""


@pytest.mark.parametrize(("ending", "last"), every_pair([*ENDINGS[:4], ENDINGS[5]], [8, 30]))
def test_own_code_that_ends_training_is_no_success(
    ending: str, last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    name = own_module(tmp_path, NET.format(last=last, ending=ending), monkeypatch)
    monkeypatch.chdir(tmp_path)
    arguments = (*QUICK, f"net._target_={name}.Ending", "data.steps_per_epoch=10")
    given = [item for item in arguments if not item.startswith("net.") or name in item]
    assert run("train", *given, "-m", "seed=0,1", "hydra.sweep.dir=swept") == 2
    assert re.search(rf"{name}\.py\D+\d", capsys.readouterr().err)
    states = [json.loads(path.read_text())["state"] for path in tmp_path.glob("swept/*/job.json")]
    assert sorted(states) == ["done", "failed"]


CALLBACK = """
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import _TunerExitException

class Ending(Callback):
    def {hook}(self, *given):
        raise {error}
"""
QUIET = (
    ("on_train_batch_end", "StopIteration"),
    ("on_validation_batch_end", "StopIteration"),
    ("on_test_batch_start", "_TunerExitException"),
)


@pytest.mark.parametrize(("hook", "error"), QUIET)
def test_a_callback_ends_no_loop_of_lightning(
    hook: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Lightning takes these for the end of the data, or of its work: an epoch or a test would be short."""
    name = own_module(tmp_path, CALLBACK.format(hook=hook, error=error), monkeypatch)
    assert run("train", *QUICK, f"runs={tmp_path}", f"+trainer.callbacks=[{{_target_:{name}.Ending}}]") == 2
    assert re.search(rf"{name}\.py\D+\d", capsys.readouterr().err)


def test_own_code_that_moves_all_tensors_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    name = own_module(tmp_path, NET.format(last=8, ending="torch.set_default_device('meta')"), monkeypatch)
    given = [item for item in QUICK if not item.startswith("net.")]
    try:
        assert run("train", *given, f"net._target_={name}.Ending", f"runs={tmp_path}") == 2
    finally:
        torch.set_default_device(None)
    assert "set_default_device" in capsys.readouterr().err.splitlines()[-1]


def test_no_draw_depends_on_the_default_type_of_torch() -> None:
    x = torch.zeros(50, 8, dtype=torch.int64)
    found = []
    try:
        for dtype in (torch.float32, torch.float64, torch.float16):
            torch.set_default_dtype(dtype)
            generator = torch.Generator().manual_seed(0)
            masked = mask_uniform(x, torch.full((50,), 3), 1, generator)
            found.append((masked, drop_labels(x[:, 0], 1, 0.3, generator)))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(found[0], others))
