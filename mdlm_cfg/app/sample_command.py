"""The work of `python -m mdlm_cfg.sample`: guided samples of a trained network as arrays, as a picture, as text."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdlm_cfg.app.build import build_data
from mdlm_cfg.app.folders import place_for
from mdlm_cfg.app.guides import guides_of
from mdlm_cfg.app.jobs import Outcome
from mdlm_cfg.app.merging import merged, naming_checkpoint
from mdlm_cfg.app.places import shown_path
from mdlm_cfg.app.report_cache import cache_in, check_places_for, files_of, saying_cached, written_together
from mdlm_cfg.app.session import start
from mdlm_cfg.app.settings import asks_for_fit, checked_guides, plan_of
from mdlm_cfg.app.sharing import sampling_trainer, share_pieces
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.reports.pictures import save
from mdlm_cfg.reports.pictures.mosaic import Images
from mdlm_cfg.reports.style import numbers_of
from mdlm_cfg.reports.tables import write_arrays
from mdlm_cfg.studies.draws import Draw, draws_of
from mdlm_cfg.studies.fitting import Fit
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.atomic import write_text
from mdlm_cfg.support.cache import AnyCache
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.folders import Made
from mdlm_cfg.support.instantiate import names_in
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.support.progress import share_shown
from mdlm_cfg.support.schema import SampleSchema, SamplingSchema, keys_of
from mdlm_cfg.training.checkpoints import newest_run
from mdlm_cfg.training.data.text import BLANK
from mdlm_cfg.training.predicting import is_first_process
from mdlm_cfg.training.runs import LoadedRun, load_run

RECORD = "samples.json"  # names the files that were written
FILES = ("samples.npz", "samples.png", "samples.csv", "samples.txt", RECORD)
MOST_COLUMNS = 40  # of images of several classes, over all strengths
Names = tuple[Sequence[str] | None, Sequence[str] | None]  # of the classes, of the values


def draw(config: SampleSchema, overrides: Sequence[str], job: Path | None = None) -> Outcome:
    """Draw samples of every given class and strength, and write them without replacing files that are not ours.

    Args:
        config: of sample.yaml. overrides: of the command line. job: the folder, of a job of a sweep.
    """
    whole_number("n", config.n)
    start(config)
    checked_guides(config, overrides)  # refused before anything is loaded
    run = load_run(config.ckpt_path or newest_run(config.runs), config.batch_size, names_in(config.net))
    with naming_checkpoint(run.path, lambda: None):  # those of the command alone were checked above
        settings = merged(run.config, config, list(overrides), keys_of(SamplingSchema, "result"))
        checked_guides(settings, overrides, config)
    trainer = sampling_trainer(config.trainer, run.net)
    plan = _plan_of(settings, config, run)
    plan.check_dims(run.denoiser.num_dims)
    plan.check_classes(run.denoiser.num_classes)
    classes = list(range(run.denoiser.num_classes)) if plan.classes is None else list(plan.classes)
    for guidance, k in product(plan.guidances, classes):
        guidance.rule.check(run.denoiser, k)
    made = Made()
    out = place_for(config.out, job, run.folder, "samples", overrides, made)
    with made.taken_back():
        check_places_for(FILES, out, files_of(out, RECORD))
    if is_first_process():
        print(f"sampling from {shown_path(run.path)}", file=sys.stderr)
    pieces = {(g, k): draws_of(plan, run.denoiser, g, k) for g in plan.guidances for k in classes}
    cache = cache_in(out, run.data, run.denoiser)
    if not share_pieces(trainer, [one for those in pieces.values() for one in those], run.denoiser, cache):
        return Outcome()
    with made.taken_back(), saying_cached(cache, f"out={shown_path(out)}"):  # an interrupt leaves no empty folder
        out.mkdir(parents=True, exist_ok=True)
        drawn = _drawn(run, plan, pieces, cache)
    with written_together(out, RECORD, "samples", FILES) as part:
        written = _write(drawn, classes, run, part)
    cache.clear()
    for path in written:
        print(f"samples: {shown_path(out / path.name)}")
    return Outcome()


def _plan_of(settings: SampleSchema, config: SampleSchema, run: LoadedRun) -> Plan:
    """The plan; the run's data are loaded only if strengths, steps or a rule depend on them."""
    guides = guides_of(settings, config)
    is_fitted = asks_for_fit(settings)
    data = None
    if is_fitted or guides.need_data(settings, run.denoiser):
        data = build_data(run.config["data"])
        run.check_data(data.describe())
    guides = guides.completed(settings, None if data is None else data.target, run.denoiser)
    guides.to(run.denoiser.device)
    fit = Fit(data, run.denoiser, settings.target_class, config.seed) if is_fitted and data is not None else None
    return plan_of(settings, config, fit, guides)


def _drawn(
    run: LoadedRun, plan: Plan, pieces: Mapping[tuple[Guidance, int], Sequence[Draw]], cache: AnyCache
) -> dict[str, Tensor]:
    """Samples by strength ("w2"), int64 (classes, n, *grid_shape) on the CPU; cached ones are not drawn again.

    The progress shown is the share of the samples still to be drawn: cached pieces take no time.
    """
    dims = run.denoiser.num_dims
    calls = plan.sampler.calls(dims) + 1  # one at the start
    costs = {g: plan.sampler.num_rows(1, dims, g) / calls for g in plan.guidances}
    whole = calls * sum(costs[g] * one.num_samples for (g, _), those in pieces.items() for one in those)
    done = 0.0
    found: dict[str, Tensor] = {}
    with share_shown("sampling") as show:

        def drawn(cost: float, x: Tensor) -> None:
            nonlocal done
            done += cost * len(x)
            show(done / whole)

        def drawn_or_kept(cost: float, one: Draw) -> Tensor:
            nonlocal whole
            before = done
            x: Tensor = cache(one.key, partial(one.make, partial(drawn, cost)))
            if done == before:
                whole -= calls * cost * one.num_samples
            return x

        for g, cost in costs.items():
            sets = [
                torch.cat([drawn_or_kept(cost, one) for one in those])
                for (guidance, _), those in pieces.items()
                if guidance is g
            ]
            found[g.identifier] = torch.stack(sets).long().unflatten(2, tuple(run.data["grid_shape"]))
    return found


def _write(samples: dict[str, Tensor], classes: Sequence[int], run: LoadedRun, out: Path) -> list[Path]:
    """Write samples.npz; for images samples.png, its content as samples.csv; samples.txt where values have names."""
    class_names, value_names = _names_of(run)
    smallest = np.min_scalar_type(run.denoiser.num_tokens - 1)
    grids = {key: x.numpy().astype(smallest) for key, x in samples.items()}
    paths = [write_arrays({**grids, "classes": np.array(classes)}, out / "samples.npz")]
    labels = [str(k) if class_names is None else class_names[k] for k in classes]
    if len(run.data["grid_shape"]) == 2:
        top = max(1, run.denoiser.num_tokens - 1)
        images = {f"w = {key.removeprefix('w')}": x / top for key, x in grids.items()}
        picture = save(_arranged(images, labels), out / "samples.png")
        paths += [picture, numbers_of(picture)]
    if value_names is not None:
        paths.append(_write_text(samples, labels, value_names, out / "samples.txt"))
    return paths


def _arranged(images: Mapping[str, np.ndarray], class_names: Sequence[str]) -> Images:
    """Images (classes, n, H, W) by strength, with a row for the first samples of each class.

    Those of a single class are all shown, as close to a square as possible, and only the first row has a name.
    """
    (num_classes, num_images) = next(iter(images.values())).shape[:2]
    if num_classes > 1:
        shown = max(2, MOST_COLUMNS // len(images))
        return Images({w: array[:, :shown] for w, array in images.items()}, class_names)
    columns = math.ceil(math.sqrt(num_images))
    lines = math.ceil(num_images / columns)
    missing = ((0, lines * columns - num_images), (0, 0), (0, 0))
    square = {w: np.pad(x[0], missing).reshape(lines, columns, *x.shape[2:]) for w, x in images.items()}
    return Images(square, [*class_names, *[""] * (lines - 1)])


def _names_of(run: LoadedRun) -> Names:
    """The data's names of classes and values; none, with a message, if the data are missing or have changed."""
    try:
        data = build_data(run.config["data"])
        run.check_data(data.describe())
    except (UserError, KeyError, OSError) as error:
        print(f"samples are written without the names of classes and values: {error}", file=sys.stderr)
        return None, None
    return data.class_names, data.value_names


def _write_text(samples: dict[str, Tensor], labels: Sequence[str], names: Sequence[str], path: Path) -> Path:
    """A line for each sample: strength, class, and its values by their names, without the blanks at the end."""
    between = "" if all(len(name) == 1 for name in names if name != BLANK) else " "
    lines = [
        f"{key}\t{label}\t{between.join(names[v] for v in x.tolist() if names[v] != BLANK)}\n"
        for key, of_classes in samples.items()
        for label, of_class in zip(labels, of_classes)
        for x in of_class.flatten(1)
    ]
    return write_text(path, "".join(lines))
