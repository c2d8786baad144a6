"""Samples of a Bernoulli mixture fitted to binary images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mdlm_cfg.support.checked_io import Damaged, load, store_if_possible
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.progress import share_shown
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.bernoulli_fit import fit_em
from mdlm_cfg.training.data.base import Batch, check_positive, content_hash, short_name
from mdlm_cfg.training.data.images import load_images
from mdlm_cfg.training.data.levels import binarize
from mdlm_cfg.training.data.target_data import TargetData


class BernoulliData(TargetData):
    """Samples of a Bernoulli mixture fitted to binary images: high dimension, exact conditionals.

    The fit is saved in `root/bernoulli`, named by a hash of the images and of every setting it depends on.

    Args:
        num_components: per class.
        iterations: of expectation maximisation; smoothing: see `fit_em`.
        binarization: "static" or "threshold": the mixture is fitted to one set of binary images.
        dataset: "mnist", "fashion_mnist", or a folder as `load_images` takes it.
        root: folder of the data sets.
        fit_seed: of the fit's initial values; separate from `seed`, so that runs with other seeds have the same target.
        steps_per_epoch: training steps that make an epoch.
        loading: see `Loading`; default batches of 64 and 250, 1,000 samples to validate on, 10,000 to test on.
    """

    def __init__(
        self,
        num_components: int = 20,
        iterations: int = 100,
        smoothing: float = 0.1,
        *,
        binarization: str = "static",
        dataset: str = "mnist",
        root: str = "data",
        fit_seed: int = 0,
        steps_per_epoch: int = 500,
        **loading: Any,
    ) -> None:
        name = f"bernoulli_{short_name(dataset)}_{num_components}"
        defaults: dict[str, Any] = {"batch_size": 64, "eval_batch_size": 250, "num_val": 1000, "num_test": 10_000}
        super().__init__(None, name, None, steps_per_epoch, **(defaults | loading))
        check_positive(num_components=num_components, iterations=iterations)
        if binarization not in ("static", "threshold"):
            raise UserError(
                f"binarization {binarization!r} is not allowed here: a mixture is fitted to one set of binary images; "
                "choose static or threshold"
            )
        self.settings = (num_components, iterations, float(smoothing))
        self.binarization = binarization
        self.fit_seed = fit_seed
        self.dataset = dataset
        self.root = root
        self._fitted: list[Tensor] | None = None  # by this process

    def prepare_data(self) -> None:
        """Fetch the images if they are missing, and fit the mixture if it is not saved."""
        images, labels = self._images()
        path = self._path(images, labels)
        if path.is_file() or self._fitted is not None:
            return
        components, iterations, smoothing = self.settings
        generator = generator_for("fit", self.fit_seed)
        total = iterations * (int(labels.max()) + 1)
        with share_shown(f"fitting {components} components per class") as show:
            fit = fit_em(
                images,
                labels,
                components,
                iterations,
                smoothing,
                generator,
                lambda k, iteration, _: show((k * iterations + iteration + 1) / total),
            )
        self._fitted = [fit.probabilities, fit.component_weights, fit.class_weights]
        store_if_possible(self._fitted, path, "the fitted mixture")

    def _images(self) -> Batch:
        images = load_images(self.dataset, self.root)
        self._shape = tuple(images.train.shape[1:])
        self.class_names = images.class_names
        return binarize(images.train, self.binarization), images.train_labels

    def _path(self, images: Tensor, labels: Tensor) -> Path:
        return (
            Path(self.root) / "bernoulli" / f"{content_hash(images, labels, repr((self.settings, self.fit_seed)))}.pt"
        )

    def _build(self) -> BernoulliMixture:
        path = self._path(*self._images())
        self._fingerprint = path.stem
        if not path.is_file():
            self.prepare_data()
        try:
            return BernoulliMixture(*(load(path) if self._fitted is None else self._fitted))
        except (Damaged, TypeError, ValueError) as error:
            raise UserError(
                f"the fitted mixture {path} is damaged: delete it, and the next run fits it again"
            ) from error

    def fingerprint(self) -> str:
        """A short hash of the images and the fit's settings.

        It excludes the fitted numbers, whose last digits (1e-14) depend on the number of threads: a checkpoint must be
        usable on another machine.
        """
        return self._fingerprint
