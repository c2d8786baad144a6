"""A network against a Bernoulli mixture that is known exactly: its score error in nats, and its guided samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.schedules import Schedule
from mdlm_cfg.compare.images import energy_distance, moment_difference, pixel_moments
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.compare.mixtures import (
    ComponentPicture,
    PixelPicture,
    component_picture,
    component_usage,
    distinctness,
    pixel_picture,
)
from mdlm_cfg.compare.score_error import ScoreError, score_error
from mdlm_cfg.sampling.sampler import Steps, check_sampler, num_rows, sample
from mdlm_cfg.studies.table.evaluation import to_plain
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.table import check_class
from mdlm_cfg.training.data import BernoulliData

STATISTICS = ("mean_rms", "covariance", "component_tv", "energy")
DISTINCT_IMAGES = 200  # per component, to judge its distinctness by
Row = dict[str, float]


@dataclass(frozen=True)
class BernoulliEvaluation:
    """Guided samples of a Bernoulli mixture by its exact denoiser and by a learned one.

    Attributes:
        name, kind, sampler, steps, schedule, seed: of the data, the guidance and the sampling.
        num_samples: n, per class, strength and set.
        classes: which were sampled.
        grid_shape: (height, width).
        score: "conditional" and "null"; empty without a learned denoiser.
        samples: by w and set ("exact", "learned"), uint8 (classes, n, D).
        comparisons: by w: what is compared with the exact guided samples, and its `STATISTICS`, means over classes.
            "learned": the network's samples; "floor": other exact ones; "class": the class's own, unguided.
        class_comparisons: the same, per class.
        pixels: by w, of exact samples; learned_pixels: of the network's.
        components, learned_components: likewise.
        distinct, distinct_partial: of components, (classes, C), in nats.
    """

    name: str
    kind: str
    sampler: str
    steps: int | list[float] | None
    schedule: str | None
    num_samples: int
    seed: int
    classes: list[int]
    grid_shape: tuple[int, ...]
    score: dict[str, ScoreError]
    samples: dict[float, dict[str, Tensor]]
    comparisons: dict[float, dict[str, Row]]
    class_comparisons: dict[float, dict[str, list[Row]]]
    pixels: dict[float, dict[str, PixelPicture]]
    components: dict[float, dict[str, ComponentPicture]]
    distinct: Tensor
    distinct_partial: Tensor

    @property
    def strengths(self) -> list[float]:
        """The guidance strengths, in the order asked for."""
        return list(self.samples)

    @property
    def has_learned(self) -> bool:
        """Whether a learned denoiser was judged."""
        return bool(self.score)

    def rows(self) -> list[dict[str, float | int | str]]:
        """Flat rows for a csv file: per w, set and class; class "all" is their mean."""
        rows: list[dict[str, float | int | str]] = []
        for w in self.strengths:
            for name, by_class in self.class_comparisons[w].items():
                rows += [{"w": w, "set": name, "class": k, **row} for k, row in zip(self.classes, by_class)]
                rows.append({"w": w, "set": name, "class": "all", **self.comparisons[w][name]})
        return rows

    def numbers(self) -> dict[str, float]:
        """Flat numbers to log: "score_error_conditional", "energy_learned_w2", and so on."""
        flat: dict[str, float] = {}
        for label, error in self.score.items():
            flat |= {f"score_error_{label}": error.difference, f"score_error_{label}_se": error.difference_se}
            flat |= {f"score_kl_{label}": error.kl, f"score_kl_{label}_se": error.kl_se}
        for w in self.strengths:
            for name, row in self.comparisons[w].items():
                flat |= {f"{key}_{name}_w{w:g}": value for key, value in row.items()}
            for name, pixels in self.pixels[w].items():
                flat[f"pixel_correlation_{name}_w{w:g}"] = pixels.correlation
                flat[f"component_rank_correlation_{name}_w{w:g}"] = self.components[w][name].rank_correlation_partial
        return flat

    def to_dict(self) -> dict[str, Any]:
        """All but images and scatter plots, in plain JSON types."""
        heads = ("name", "kind", "sampler", "steps", "schedule", "num_samples", "seed", "classes", "grid_shape")
        head = {name: getattr(self, name) for name in heads}
        score = {label: asdict(error) for label, error in self.score.items()}
        return to_plain(head | {"score_error": score, "numbers": self.numbers(), "rows": self.rows()})


def evaluate_bernoulli(
    data: BernoulliData,
    denoiser: Denoiser | None,
    strengths: Sequence[float],
    kind: str = "rate",
    sampler: str = "event_leaping",
    steps: Steps | None = 64,
    schedule: Schedule | None = None,
    num_samples_per_class: int = 100,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    classes: Sequence[int] | None = None,
    num_test: int = 2000,
    num_draws: int = 4,
) -> BernoulliEvaluation:
    """Judge a learned denoiser against the exact one, and say what guidance does to the mixture.

    Args:
        data: with a `BernoulliMixture` as target, set up.
        denoiser: the learned one; None for what guidance does alone.
        strengths: guidance strengths w >= -1 (gamma = 1 + w in other codes), each once.
        kind: "rate" or "normalized".
        sampler, steps, schedule: of all sets alike, see `mdlm_cfg.sampling.sampler.sample`.
        num_samples_per_class: n >= 2, per strength and set.
        seed: mixed with w, the class and the set.
        progress: called with one short line before every piece of work, which says how long the rest takes.
        classes: which to sample; default all.
        num_test: test images for the score error; num_draws: masks for each.

    Raises:
        UserError: a target of another kind, no strengths or one twice or below -1, an unknown class, kind or
            sampler, or too few samples.
    """
    target = data.target
    if not isinstance(target, BernoulliMixture):
        raise UserError(f"{data.name} is no Bernoulli mixture; choose data=bernoulli_mnist")
    guidances = [Guidance(float(w), kind) for w in strengths]
    chosen = list(range(target.num_classes)) if classes is None else list(classes)
    _check([float(w) for w in strengths], chosen, target.num_classes, num_samples_per_class)
    check_sampler(sampler, steps)
    denoisers: dict[str, Denoiser] = {"exact": target.denoiser(), "again": target.denoiser()}
    if denoiser is not None:
        denoisers["learned"] = denoiser
    num, d = num_samples_per_class * len(chosen), target.num_dims
    rows = [num_rows(num, d, guidance, sampler, steps) for guidance in guidances]
    scored = [2 * num_draws * min(num_test, len(data._test[0]))] if denoiser is not None else []
    say = Pieces([*scored, *(number for number in rows for _ in denoisers)], progress)
    score = {}
    if denoiser is not None:
        say(f"score error on {min(num_test, len(data._test[0])):,} test images")
        x, labels = (part[:num_test] for part in data._test)
        score["conditional"] = score_error(target, denoiser, x, labels, num_draws, generator_for("masks"))
        score["null"] = score_error(target, denoiser, x, None, num_draws, generator_for("masks"))
    distinct, distinct_partial = (
        torch.stack([distinctness(target, k, DISTINCT_IMAGES, p, generator_for("distinct", k)) for k in chosen])
        for p in (False, True)
    )
    samples, comparisons, by_class, pixels, components = {}, {}, {}, {}, {}
    for guidance in guidances:
        w = guidance.strength(0, 1)
        sets = {}
        for name, used in denoisers.items():
            say(f"samples at w = {w:g}: {'learned' if name == 'learned' else 'exact'}")
            drawn = [
                sample(
                    used, guidance, k, num_samples_per_class, sampler, steps, schedule,
                    generator_for("samples", name, seed, str(w), k),
                )
                for k in chosen
            ]  # fmt: skip
            sets[name] = torch.stack(drawn).to(torch.uint8)
        by_class[w] = _compare(target, chosen, sets, generator_for("class", seed))
        comparisons[w] = {name: _mean_row(rows) for name, rows in by_class[w].items()}
        samples[w] = {name: x for name, x in sets.items() if name != "again"}
        everything = {"exact": torch.cat([sets["exact"], sets["again"]], dim=1)}
        everything |= {name: x for name, x in sets.items() if name == "learned"}
        pixels[w] = {name: pixel_picture(target, chosen, x.double().mean(dim=1)) for name, x in everything.items()}
        components[w] = {
            name: component_picture(
                target, chosen, torch.stack([component_usage(target, own, k) for own, k in zip(x, chosen)]),
                x.shape[1], distinct, distinct_partial,
            )
            for name, x in everything.items()
        }  # fmt: skip
    return BernoulliEvaluation(
        data.name, kind, sampler,
        steps if steps is None or isinstance(steps, int) else [float(tau) for tau in steps],
        None if sampler == "first_hitting" or schedule is None else schedule.name,
        num_samples_per_class, seed, chosen, tuple(data.grid_shape), score, samples, comparisons, by_class,
        pixels, components, distinct, distinct_partial,
    )  # fmt: skip


def _compare(
    target: BernoulliMixture, classes: Sequence[int], sets: dict[str, Tensor], generator: torch.Generator
) -> dict[str, list[Row]]:
    """Every set against the exact guided samples, per class."""
    num = sets["exact"].shape[1]
    others = {"learned": sets["learned"]} if "learned" in sets else {}
    own = torch.stack([target.sample(num, generator, k)[0] for k in classes]).to(torch.uint8)
    others |= {"floor": sets["again"], "class": own}
    rows: dict[str, list[Row]] = {name: [] for name in others}
    for at, k in enumerate(classes):
        reference = sets["exact"][at]
        moments, usage = pixel_moments(reference), component_usage(target, reference, k)
        for name, x in others.items():
            rows[name].append(
                {
                    **moment_difference(x[at], *moments),
                    "component_tv": total_variation(component_usage(target, x[at], k), usage),
                    "energy": energy_distance(x[at], reference),
                }
            )
    return rows


def _mean_row(rows: Sequence[Row]) -> Row:
    return {name: sum(row[name] for row in rows) / len(rows) for name in STATISTICS}


def _check(strengths: list[float], classes: Sequence[int], num_classes: int, num_samples: int) -> None:
    if not strengths or len(set(strengths)) < len(strengths):
        raise UserError(f"guidance strengths {strengths} must be at least one, and each given once")
    for k in classes:
        check_class(k, num_classes)
    if num_samples < 2:
        raise UserError(f"the number of samples per class is {num_samples}, and must be at least 2")
