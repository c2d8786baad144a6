"""Runs on wandb: an experiment and its evaluations are one group, without a connection nothing asks for one."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import conftest as tests
import psutil
import pytest
import wandb
import yaml
from commands import EXACT, QUICK, TOY, refusal, report_in, run
from forks import code_of, fork
from lightning.pytorch.loggers import WandbLogger

from mdlm_cfg import UserError
from mdlm_cfg.app import session
from mdlm_cfg.app.wandb_runs import begin_wandb, check_wandb, earlier_wandb_run
from mdlm_cfg.training.checkpoints import newest_run
from mdlm_cfg.training.unfinished import MARK

ROOT = Path(__file__).parent.parent.parent
VALUES = {"optimizer.lr": 0.002, "net.width": 32, "seed": 1}  # of a sweep
RUN_ID = "run00001"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What wandb runs were opened with, offline."""
    calls: list[dict[str, Any]] = []
    init = wandb.init

    def remember(*positional: Any, **settings: Any) -> Any:
        calls.append(settings)
        return init(*positional, **settings)

    monkeypatch.setattr(wandb, "init", remember)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.slow
def test_training_and_its_evaluations_are_one_group(
    tmp_path: Path, opened: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *TOY, f"runs={tmp_path}", "logger=wandb") == 0
    assert wandb.run is None and "wandb: WARNING" not in capfd.readouterr().err
    folder = newest_run(tmp_path).parent.parent
    assert (folder / "metrics.csv").is_file()
    assert run("eval", f"runs={tmp_path}", f"out={tmp_path / 'out'}") == 0
    assert len(opened) == 1  # no wandb unless it is asked for
    assert run("eval", f"runs={tmp_path}", "logger=wandb") == 0
    assert wandb.run is None
    assert [settings["job_type"] for settings in opened] == ["train", "eval"]
    assert {settings["group"] for settings in opened} == {folder.parent.name}
    for settings in opened:  # the configuration once, with the run that was judged
        assert settings["config"]["run"] == f"{folder.parent.name}/{folder.name}"
        assert settings["config"]["w"] == [0, 2] and "config" not in settings["config"]
    assert all(settings["mode"] == "offline" for settings in opened)
    assert len(list(folder.rglob("offline-run-*/*.wandb"))) == 2
    (evaluation,) = (folder / "evaluations").iterdir()
    with (evaluation / "metrics.csv").open() as file:
        (row,) = list(csv.DictReader(file))
    assert float(row["eval/tv_exact_learned_w2"]) == report_in(evaluation)["distances"][1]["tv_exact_learned"]


def test_an_interrupt_while_wandb_is_imported_stays_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = WandbLogger.__new__(WandbLogger)
    monkeypatch.setitem(sys.modules, "wandb", None)  # to import it now is an error, as after half of an import
    with pytest.raises(KeyboardInterrupt), session.wandb_finished([logger]):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_is_finished_after_a_failure(
    tmp_path: Path, opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        assert wandb.run is not None
        raise RuntimeError("a bug")

    monkeypatch.setattr(session, "log_evaluation", fail)
    assert run("eval", *EXACT, "logger=wandb", f"out={tmp_path}", f"runs={tmp_path}") == 1
    assert opened and wandb.run is None


def test_online_without_a_login_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    said = refusal(capsys, "train", *TOY, "logger=wandb", "logger.mode=online", f"runs={tmp_path}")
    assert "wandb login" in said and "logger=csv" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a/b", "a:b", "a?", "x" * 129])
def test_names_that_wandb_does_not_take_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"logger\.project"):
        check_wandb({"project": name})
    monkeypatch.setenv("WANDB_PROJECT", name)
    with pytest.raises(UserError, match="WANDB_PROJECT"):
        check_wandb({"project": "mine"})


@pytest.mark.parametrize("run_id", ["x" * 129, "é" * 65])
def test_an_id_too_long_for_the_name_of_a_file_is_refused(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"logger\.id"):
        check_wandb({"id": run_id})
    monkeypatch.setenv("WANDB_RUN_ID", run_id)
    with pytest.raises(UserError, match="WANDB_RUN_ID"):
        check_wandb({})


VARIABLES = {"RUN_ID": "a/b", "CONSOLE": "bogus", "TAGS": "x" * 200, "RESUME": "maybe", "BASE_URL": "nowhere"}


CHECKED = f"""
import os
import wandb
from mdlm_cfg.app.errors import sentence
from mdlm_cfg.app.wandb_runs import check_wandb
for name, value in {VARIABLES}.items():
    if os.fork() == 0:  # wandb reads them once a process
        os.environ["WANDB_" + name] = value
        try:
            check_wandb({{}})
        except Exception as error:
            print(sentence(error), flush=True)
        os._exit(0)
    os.wait()
"""


def test_variables_that_wandb_does_not_take_are_refused_at_once() -> None:
    environment = os.environ | {"WANDB_MODE": "offline"}
    said = subprocess.run([sys.executable, "-c", CHECKED], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert [line.count("WANDB_") > 0 for line in said.stdout.splitlines()] == [True] * len(VARIABLES), said


@pytest.mark.parametrize("run_id", ["abcd1234", "my-run-3", "run-1"])
def test_a_training_run_keeps_its_run_on_wandb(run_id: str, tmp_path: Path) -> None:
    assert earlier_wandb_run(tmp_path) is None
    names = (f"offline-run-20260101_101010-{run_id}", f"run-20260102_101010-{run_id}", "run-20260103_101010-other")
    for number, name in enumerate(names):
        (tmp_path / "wandb" / name).mkdir(parents=True)
        os.utime(tmp_path / "wandb" / name, (number, number))
    assert earlier_wandb_run(tmp_path) == run_id


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_no_connection_is_asked_for(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = pytest.importorskip("wandb.analytics.opentelemetry.opentelemetry_proxy")  # of wandb on itself
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(reports, "_DEFAULT_EXPORT_INTERVAL_MILLIS", 200)  # and not every minute

    def work() -> int:
        code = run("train", *QUICK, "logger=wandb", f"logger.mode={mode}", f"runs={tmp_path}")
        time.sleep(2)
        print(tests.ASKED)
        return 3 if tests.ASKED else code

    log = tmp_path / "log"
    assert code_of(fork(work, log)) == 0, log.read_text()[-500:]


def sweep_of_the_page() -> dict[str, Any]:
    """The indented block of docs/wandb.md that begins with the program."""
    text = (ROOT / "docs" / "wandb.md").read_text()
    block = re.search(r"(?:^    .*\n)*^    program: .*\n(?:^    .*\n)*", text, re.MULTILINE)
    assert block is not None
    return dict(yaml.safe_load(textwrap.dedent(block[0])))


class Server(ThreadingHTTPServer):
    """What `wandb agent` asks of wandb's site: the sweep, an agent's id, and once a run to begin."""

    def __init__(self, sweep: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        arguments = {name: {"value": value} for name, value in VALUES.items()}
        run = {"id": "1", "type": "run", "run_id": RUN_ID, "program": sweep["program"], "args": arguments}
        self.commands = [run]
        found = {"config": yaml.safe_dump(sweep), "runs": {"edges": []}}
        self.answers = {
            "query Viewer": {"viewer": {"id": "1", "entity": "team", "username": "me", "teams": {"edges": []}}},
            "SweepWithRuns": {"project": {"sweep": found}},
            "createAgent": {"createAgent": {"agent": {"id": "a"}}},
        }


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("content-length", 0))).decode(errors="replace")
        self.asked = asked
        found = next((answer for name, answer in self.server.answers.items() if name in asked), {})
        if "agentHeartbeat" in asked:
            commands = [self.server.commands.pop()] if self.server.commands else []
            found = {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}
        text = json.dumps({"data": found}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    small = [word for word in TOY if not word.startswith(tuple(f"{name}=" for name in (*VALUES, "evaluate")))]
    sweep = sweep_of_the_page()
    assert set(sweep["parameters"]) == set(VALUES)
    sweep["command"] += [*small, f"runs={tmp_path / 'runs'}", "logger=wandb", "logger.mode=offline"]
    with Server(sweep) as made:
        Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


@pytest.mark.slow
def test_the_agent_trains_a_run_of_the_sweep(server: Server, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{server.server_address[1]}"
    python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "a" * 40, "WANDB_DIR": str(tmp_path), "PATH": python}
    command = [sys.executable, "-m", "wandb", "agent", "--count", "1", "team/mdlm_cfg/abcd1234"]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | environment, timeout=900)
    (run,) = (tmp_path / "runs").glob("*/*/resolved_config.yaml")
    config = yaml.safe_load(run.read_text())
    assert (config["optimizer"]["lr"], config["net"]["width"], config["seed"]) == tuple(VALUES.values())
    assert sweep_of_the_page()["metric"]["name"] in (run.parent / "metrics.csv").read_text().splitlines()[0].split(",")
    assert list((run.parent / "wandb").glob(f"offline-run-*-{RUN_ID}"))  # the sweep knows it by this name


class Dying(Handler):
    """Opens a run, and answers nothing from then on."""

    dead = Event()

    def do_POST(self) -> None:
        if self.dead.is_set():
            time.sleep(600)
        super().do_POST()
        if "UpsertBucket" in self.asked:
            self.dead.set()


@pytest.mark.slow
def test_a_server_that_dies_during_a_run_loses_nothing(tmp_path: Path) -> None:
    Dying.dead.clear()
    project = {"id": "1", "name": "mdlm_cfg", "entity": {"id": "1", "name": "team"}}
    bucket = {
        "id": "1",
        "name": RUN_ID,
        "displayName": "run",
        "config": "{}",
        "historyLineCount": 0,
        "project": project,
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), Dying) as server:
        server.daemon_threads = True
        server.commands = []  # type: ignore[attr-defined]
        server.answers = {  # type: ignore[attr-defined]
            "UpsertBucket": {"upsertBucket": {"bucket": {**bucket, "project": project}, "inserted": True}},
            "iewer": {"viewer": {"id": "1", "entity": "team", "username": "me", "teams": {"edges": []}}},
        }
        Thread(target=server.serve_forever, daemon=True).start()
        online = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.server_address[1]}", "WANDB_API_KEY": "a" * 40}
        command = [sys.executable, "train.py", *TOY, "logger=wandb", "logger.mode=online", f"runs={tmp_path}"]
        environment = os.environ | online | {"WANDB_FINISH_TIMEOUT": "5", "HOME": str(tmp_path / "home")}
        subprocess.run(command, check=True, cwd=ROOT, env=environment, timeout=400)
        server.shutdown()
    assert Dying.dead.is_set()
    folder = newest_run(tmp_path).parent.parent
    assert (folder / "report" / "report.json").is_file() and (folder / "metrics.csv").is_file()
    assert not (folder / MARK).exists()


@pytest.mark.slow
def test_a_run_is_finished_before_wandb_sends_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_: Any) -> None:
        raise wandb.errors.AuthenticationError("it does not answer")

    finish = wandb.finish

    def interrupted() -> None:
        finish()
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "log_evaluation", lost)
    monkeypatch.setattr(wandb, "finish", interrupted)
    assert run("train", *TOY, "logger=wandb", f"runs={tmp_path}") == 130
    folder = newest_run(tmp_path).parent.parent
    assert "it does not answer" in capsys.readouterr().err
    assert (folder / "report" / "report.json").is_file() and not (folder / MARK).exists()


@pytest.mark.slow
def test_an_interrupt_while_a_server_does_not_answer_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as server:  # it takes connections, and never answers
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        logger = WandbLogger(save_dir=tmp_path, mode="online")

        def interrupt() -> None:
            while not (tmp_path / "wandb").is_dir():
                time.sleep(0.1)
            time.sleep(2)
            interrupted.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        interrupted: list[float] = []
        Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            begin_wandb(logger, "online")
    assert time.monotonic() - interrupted[0] < 20  # wandb itself waits for 90 seconds
    cores = [child for child in psutil.Process().children() if child.name().startswith("wandb-core")]
    assert all(child.status() == psutil.STATUS_ZOMBIE for child in cores)  # it has ended


def test_the_jobs_of_a_sweep_are_not_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", RUN_ID)
    sweep = ("-m", "seed=0,1", "w=[1]", f"hydra.sweep.dir={tmp_path / 'swept'}")
    said = refusal(capsys, "eval", *EXACT, *sweep, "logger=wandb", "logger.mode=offline")
    assert RUN_ID in said and not (tmp_path / "swept").exists()
    assert run("eval", *EXACT, *sweep, "logger=csv") == 0
