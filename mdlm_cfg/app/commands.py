"""The work of train.py and eval.py, given their settings."""

from __future__ import annotations

import getpass
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from mdlm_cfg.app.build import (
    build_data,
    build_loggers,
    build_trainer,
    check_something_to_train,
    check_trainer,
    for_own_targets,
    say_precision,
)
from mdlm_cfg.app.errors import INTERRUPTED, sentence
from mdlm_cfg.app.evaluation import Report, Written, evaluate, title_of
from mdlm_cfg.app.folders import check_place, checkpoint_of, folder_below, out_folder, run_folder, write_config
from mdlm_cfg.app.guides import Guides
from mdlm_cfg.app.overrides import as_typed, given_for, values_of
from mdlm_cfg.app.own import denoiser_of
from mdlm_cfg.app.places import with_absolute_paths
from mdlm_cfg.app.settings import (
    build_study,
    checked_guides,
    checked_study,
    merged,
    merged_data,
    plan_of,
    study_of,
    training_guides,
)
from mdlm_cfg.app.sharing import sampling_trainer, share_draws
from mdlm_cfg.app.sweeps import Outcome
from mdlm_cfg.app.training_pictures import PicturesByStep
from mdlm_cfg.app.wandb_runs import no_wait_after_interrupt
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.reports.wandb_log import log_evaluation
from mdlm_cfg.studies.fitting import Fit
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Study
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import Made
from mdlm_cfg.support.instantiate import TARGET, names_in
from mdlm_cfg.support.machine import keep_freed_memory
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.support.schema import EvalSchema, Settings, TrainSchema, plain
from mdlm_cfg.support.seeds import MAX_SEED
from mdlm_cfg.targets.data import Data
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.build import build_module
from mdlm_cfg.training.callbacks import AveragedWeights
from mdlm_cfg.training.fit import NotBegun, check_resume, train as train_and_test
from mdlm_cfg.training.module import Diverged, MaskedDiffusion
from mdlm_cfg.training.predicting import is_first_process
from mdlm_cfg.training.runs import (
    CHECKPOINT,
    LoadedRun,
    load_run,
    newest_run,
    run_folder_of,
)
from mdlm_cfg.training.saving import Checkpoints, check_saving
from mdlm_cfg.training.step_memory import check_step_memory
from mdlm_cfg.training.unfinished import finish_the_same, mark_finished

THREADS = torch.get_num_threads()  # torch's own choice, whatever a job of a sweep has set since
ALL_STEPS = sys.maxsize  # of metrics.csv: an evaluation adds to what a run has logged in the same folder
SMALL_TABLE = 20_000  # states
MAX_THREADS = 1024  # some ten thousands end the process
NOISE = (
    r".*does not have many workers.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*Experiment logs directory .* exists.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*WeightAveraging callback.*",
    r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # numbers of every rank are reduced before
    r".*predict returned None.*",
    r".*your dataloader is not resumable.*",  # it continues where it was (tests/training/test_saving.py)
)


def train(config: TrainSchema, overrides: Sequence[str], job: Path | None = None) -> Outcome:
    """Train a network, test it, and judge it.

    Args:
        config: of train.py. overrides: of the command line. job: the folder, of a job of a sweep.
    """
    config = with_absolute_paths(for_own_targets(config, overrides))
    guides = training_guides(config)
    asked = build_study(config.study, config.study)
    check_trainer(config.trainer)
    check_saving(config.save_minutes, config.keep_steps)
    start(config)
    trusted = names_in(plain(config))  # all of it is the user's own
    data = build_data(config.data, trusted)
    guides = guides.completed(config, data.target)
    plan = plan_of(config, guides=guides)
    module = build_module(config, data.describe(), trusted)
    check_step_memory(data, module.objective, str(config.trainer.get("accelerator", "auto")))
    study = _study_after_training(config, overrides, data, NetDenoiser(module.net), plan, asked)
    before = checkpoint_of(config, data.name, job)
    check_something_to_train(config.trainer, before)
    steps = 0 if before is None else check_resume(before, module.hparams)
    with run_folder(config, data.name, before, overrides, job) as (folder, made):
        with made.taken_back():
            run_name = f"{folder.parent.name}/{folder.name}"
            loggers = build_loggers(config.logger, folder, run_name, "train", plain(config), made, steps)
            saving = Checkpoints((folder / CHECKPOINT).parent, config.save_minutes, config.keep_steps)
            averaged = [PicturesByStep(data, plan), AveragedWeights(config.ema_decay)]  # drawn before they go again
            trainer = build_trainer(config.trainer, loggers, [*averaged, saving])
        say_precision(config, trainer.strategy.root_device)
        written = None
        with made.taken_back(NotBegun), _wandb_finished(loggers):
            numbers, path = _fit(trainer, module, data, before, saving)
            if study is not None:
                run = _trained(trainer, path, config, guides)
                shown = {"command": _command("train.py", overrides), **_describe(run), **guides.described}
                report = _report(folder / "report", data, study, shown, numbers)
                if share_draws(trainer, study, data, run.denoiser, plan, report.folder):
                    written = evaluate(data, run.denoiser, plan, report, study)
                    _log(loggers, written, run.step)
        if not is_first_process():
            return Outcome()
        mark_finished(folder)
    if before is not None:
        finish_the_same(run_folder_of(before), plain(config))
    return _outcome(written, numbers, module.val_nelbo)


def _trained(trainer: Trainer, path: Path, config: TrainSchema, guides: Guides) -> LoadedRun:
    """The run that the first process saved, whose network and guides are moved to where it was trained."""
    run = load_run(trainer.strategy.broadcast(path), config.batch_size, names_in(plain(config)))
    run.net.to(trainer.strategy.root_device)
    guides.to(trainer.strategy.root_device)
    return run


def _study_after_training(
    config: TrainSchema, overrides: Sequence[str], data: Data, denoiser: NetDenoiser, plan: Plan, asked: Any
) -> Any:
    """The study that follows training, checked; None where there is none, with a message unless that is configured."""
    if not config.evaluate:
        return None
    if not _is_asked(overrides, "evaluate") and not (asked or study_of(data, config.paper)):
        print(f"there is no evaluation of {data.name} yet: the network is trained and tested", file=sys.stderr)
        return None
    return checked_study(data, plan, config.paper, asked, config.classifier, denoiser)


def judge(config: EvalSchema, overrides: Sequence[str], job: Path | None = None) -> Outcome:
    """Judge a trained network, or an exact denoiser.

    Args:
        config: of eval.py. overrides: of the command line. job: the folder, of a job of a sweep.
    """
    if not isinstance(config.denoiser, Mapping) and config.denoiser not in ("learned", "exact"):
        raise UserError(
            f"denoiser {config.denoiser!r} is unknown; choose one of learned, exact, or name your own with "
            "denoiser._target_=package.module.Name"
        )
    start(config)
    return (_judge_run if config.denoiser == "learned" else _judge_without_run)(config, overrides, job)


def _judge_without_run(config: EvalSchema, overrides: Sequence[str], job: Path | None) -> Outcome:
    """Judge the exact denoiser of the data, or a denoiser of the user's own."""
    guides = checked_guides(config)  # refused before anything is loaded
    asked = build_study(config.study, config.study)
    data = build_data(config.data, names_in(config.data))
    denoiser = None
    name = "exact"
    if isinstance(config.denoiser, Mapping):
        denoiser = denoiser_of(config.denoiser, data, names_in(config.denoiser))
        name = str(config.denoiser[TARGET]).rpartition(".")[2]
    elif data.target is None:
        raise UserError(f"denoiser=exact needs data known exactly, and {data.name} is not; train a network on it")
    guides = guides.completed(config, data.target)
    plan = plan_of(config, fit=Fit(data, denoiser, config.target_class, config.seed), guides=guides)
    study = checked_study(data, plan, config.paper, asked, config.classifier, denoiser)
    _one_thread_for_small_tables(config, data)
    made = Made()
    out = _report_folder(config, job, plain(config), made)
    out = out or folder_below(config.runs, f"{data.name}_{name}", overrides, made)
    shown = {"command": _command("eval.py", overrides), "denoiser": name, "data": data.name, **guides.described}
    report = _report(out, data, study, shown, {}, name)
    written = None
    with made.taken_back():
        check_place(out, "out")
        trainer = sampling_trainer(config.trainer)
        loggers = _eval_loggers(config, out, f"{data.name}_{name}", plain(config), made)
    with _wandb_finished(loggers):
        if share_draws(trainer, study, data, denoiser, plan, out):
            written = evaluate(data, denoiser, plan, report, study)
            _log(loggers, written, 0)
    return _outcome(written)


def _judge_run(config: EvalSchema, overrides: Sequence[str], job: Path | None) -> Outcome:
    path = config.ckpt_path or newest_run(config.runs)
    run = load_run(path, config.batch_size, names_in(config.net))
    settings = merged(run.config, config, list(overrides))
    guides = checked_guides(settings, config)  # refused before anything is loaded
    asked = build_study(settings.study, config.study)
    data = _data_of(run, config, overrides)
    trainer = sampling_trainer(config.trainer, run.net)
    guides = guides.completed(settings, data.target, run.denoiser)
    guides.to(run.denoiser.device)
    plan = plan_of(settings, config, Fit(data, run.denoiser, settings.target_class, config.seed), guides)
    study = checked_study(data, plan, config.paper, asked, settings.classifier, run.denoiser)
    _one_thread_for_small_tables(config, data)
    made = Made()
    out = _report_folder(config, job, run.config | plain(settings), made)
    out = out or folder_below(run.folder, "evaluations", overrides, made)
    if is_first_process():
        print(f"evaluating {run.path}", file=sys.stderr)
    shown = {"command": _command("eval.py", overrides), **_describe(run), **guides.described}
    report = _report(out, data, study, shown, {})
    run_name = f"{run.folder.parent.name}/{run.folder.name}"
    written = None
    with made.taken_back():
        check_place(out, "out")
        loggers = _eval_loggers(config, out, run_name, plain(settings), made)
    with _wandb_finished(loggers):
        if share_draws(trainer, study, data, run.denoiser, plan, out):
            written = evaluate(data, run.denoiser, plan, report, study)
            _log(loggers, written, run.step)
    return _outcome(written)


def _report(
    folder: Path, data: Data, study: Study, shown: dict[str, Any], test: dict[str, float], who: str = ""
) -> Report:
    return Report(folder, title_of(data.name, study, who), shown, data.describe(), test, Console())


def _report_folder(config: EvalSchema, job: Path | None, judged: Mapping[str, Any], made: Made) -> Path | None:
    """The folder given for a report, or a job's own, with the configuration `judged`; else None."""
    if job is not None:
        write_config(judged, job, made)
    return out_folder(config.out, made) or job


def _eval_loggers(config: EvalSchema, out: Path, run: str, judged: Mapping[str, Any], made: Made) -> list[Logger]:
    """The loggers of an evaluation; see `build_loggers`."""
    return build_loggers(config.logger, out, run, "eval", judged, made, ALL_STEPS) if config.logger else []


def _outcome(written: Written | None, test: Mapping[str, float] | None = None, value: float | None = None) -> Outcome:
    """The outcome of a command that a sweep records."""
    numbers = {**(test or {}), **({} if written is None else written.numbers)}
    finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
    return Outcome(value, finite, None if written is None else written.path)


def _data_of(run: LoadedRun, config: EvalSchema, overrides: Sequence[str]) -> Any:
    """The data to evaluate a run on: those it was trained on; others that are named are refused."""
    saved = run.config.get("data")
    if not isinstance(saved, dict):
        if given_for(overrides, "data") is None:
            raise UserError(f"the checkpoint {run.path} does not say how its data were made: give data=...")
        saved = {}
    settings = merged_data(saved, config, list(overrides))
    try:
        data = build_data(settings, names_in(config.data))
    except UserError as error:
        path = settings.get("path")
        if not isinstance(path, str) or os.path.exists(path):
            raise
        raise UserError(f"{error}; if the data of {run.path} were moved, give data.path=NEW") from error
    run.check_data(data.describe())
    return data


def _fit(
    trainer: Trainer, module: MaskedDiffusion, data: LightningDataModule, before: Path | None, saving: Checkpoints
) -> tuple[dict[str, float], Path]:
    """Train and test; say where the checkpoint is, also after an interrupt (Lightning then exits with code 1)."""
    path = saving.last
    try:
        numbers, trained = train_and_test(module, data, trainer, before)
    except SystemExit as error:
        if not trainer.interrupted:
            raise
        left = path if path.is_file() else before
        how = "before anything was saved" if left is None else f"resume with ckpt_path={left}"
        print(f"interrupted; {how}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from error
    except MisconfigurationException as error:
        if saving.has_saved:
            raise
        raise NotBegun(str(sentence(error))) from error
    except (Diverged, OSError, RuntimeError) as error:  # of the disk, or of another process
        if (said := sentence(error)) is None:
            raise
        raise UserError(f"{said}; {_last_good(saving, before)}") from error
    if not trained:
        if before is None:
            raise NotBegun("nothing was trained: give trainer.max_epochs, max_steps and max_time that leave some steps")
        path = before
    if trainer.is_global_zero:
        if not trained:
            print(f"nothing is left to train in {path}: its epochs, steps or time are used up", file=sys.stderr)
        print(f"checkpoint: {path}")
    return numbers, path


def _last_good(saving: Checkpoints, before: Path | None) -> str:
    """A sentence on the checkpoints left after training has failed."""
    for path in (saving.last, saving.best, before):
        if path is not None and path.is_file():
            return f"the last good checkpoint is {path}"
    return f"the checkpoints in {saving.last.parent} are gone" if saving.has_saved else "no checkpoint was saved"


def _log(loggers: Sequence[Logger], written: Written, step: int) -> None:
    """Say where the report is, and send its numbers to every logger; to wandb also tables and pictures."""
    print(f"report: {written.path}")
    finite = {f"eval/{name}": value for name, value in written.numbers.items() if math.isfinite(value)}
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            log_evaluation(logger.experiment, written.rows, written.ledger, written.pictures, step)
        else:
            logger.log_metrics(finite, step=step)
            logger.save()


@contextmanager
def _wandb_finished(loggers: Sequence[Logger]) -> Iterator[None]:
    """A wandb run of these loggers is over afterwards, whatever happens: the next job of a sweep opens its own."""
    try:
        yield
    finally:
        if any(isinstance(logger, WandbLogger) for logger in loggers):
            import wandb

            with no_wait_after_interrupt():
                wandb.finish()


def _is_asked(overrides: Sequence[str], key: str) -> bool:
    """Whether a key was given as true on the command line, and not by a file."""
    override = given_for(overrides, key)
    return override is not None and values_of(override) == [True]


def _command(program: str, overrides: Sequence[str]) -> str:
    return " ".join([program, *as_typed(overrides)])


def _describe(run: LoadedRun) -> dict[str, Any]:
    return {"checkpoint": str(run.path), "steps of training": run.step, "data": run.data["name"]}


def start(config: Settings) -> None:
    """The start of every command: quiet warnings, threads, and a check of the seed."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    keep_freed_memory()
    _name_the_user()
    if config.threads is not None:
        whole_number("threads", config.threads, 1, MAX_THREADS)
    torch.set_num_threads(config.threads or THREADS)
    seed_everything(whole_number("seed", config.seed, 0, MAX_SEED), workers=True, verbose=False)


def _name_the_user() -> None:
    """Give a name to a user who has none, as in a container: torch.compile names its cache by it."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"


def _one_thread_for_small_tables(config: EvalSchema, data: Data) -> None:
    """Laws of small tables are very many very small operations, which threads only hold up."""
    if config.threads is None and isinstance(data.target, TableMixture) and data.target.pmf.numel() <= SMALL_TABLE:
        torch.set_num_threads(1)
