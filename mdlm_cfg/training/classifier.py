"""A small convolutional classifier of images that evaluates samples: trained once, and kept on disk.

Two convolutions and two linear layers, trained on the training images shifted by up to two pixels: on fresh
binarisations or on their grey levels. Its errors only have to be rare compared with those of the samples: its
accuracy is above 99% on binarised MNIST's test images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mdlm_cfg.support.checked_io import Damaged, load, store_if_possible
from mdlm_cfg.support.errors import UserError, one_of
from mdlm_cfg.support.machine import bf16_is_fast
from mdlm_cfg.training.data import ImageData
from mdlm_cfg.training.data.base import check_positive
from mdlm_cfg.training.data.levels import binarize

BATCH = 1000  # images per call outside training
SHIFT = 2  # pixels that an image may be moved by in training, each way
DEVICE = "cpu"  # where it is trained
VERSION = 1  # of the network below: change it with the network, so that no old file is loaded
PRECISIONS = ("float32", "bfloat16")
LEAST_STEPS = 6  # of a cycle: torch divides by zero if a fifth of them is one step
FOLDER = "classifier"  # in the folder of the data sets

Progress = Callable[[int, int, float], None]  # (step, number of steps, loss in nats)


@dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier is built and trained; part of the name of the file it is kept in.

    Attributes:
        channels: of the two convolutions.
        num_features: width of the penultimate layer.
        epochs: passes over the training images.
        batch_size: images per step.
        learning_rate: the highest of its one cycle.
        dropout: share of the features dropped in training.
        seed: of weights, order, binarisation and shifts.
        precision: of the products in training: "float32", "bfloat16", or "auto", the faster on the CPU as measured.
    """

    channels: tuple[int, int] = (32, 64)
    num_features: int = 128
    epochs: int = 6
    batch_size: int = 128
    learning_rate: float = 4e-3
    dropout: float = 0.2
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        one_of("precision", self.precision, ("auto", *PRECISIONS))
        check_positive(
            channels=min(self.channels),
            num_features=self.num_features,
            epochs=self.epochs,
            batch_size=self.batch_size,
        )

    def decided(self) -> ClassifierSettings:
        """The same settings, with "auto" replaced by the precision it means on this machine."""
        if self.precision != "auto":
            return self
        return replace(self, precision="bfloat16" if bf16_is_fast(DEVICE) else "float32")


class ImageClassifier(nn.Module):
    """A classifier of images of one size.

    Args:
        grid_shape: (height, width); D is their product.
        num_classes: K.
        settings: widths and dropout.
        num_tokens: N; images hold 0..N-1, from black to white.

    Raises:
        UserError: a grid that is not two-dimensional.
    """

    def __init__(
        self,
        grid_shape: Sequence[int],
        num_classes: int,
        settings: ClassifierSettings | None = None,
        num_tokens: int = 2,
    ) -> None:
        super().__init__()
        if len(grid_shape) != 2:
            raise UserError(f"a classifier of images needs a grid (height, width), not {tuple(grid_shape)}")
        settings = settings or ClassifierSettings()
        self.grid_shape = tuple(grid_shape)
        self.num_classes = num_classes
        self.top = num_tokens - 1
        first, second = settings.channels
        height, width = ((side + 3) // 4 for side in grid_shape)  # halved twice, rounded up
        self.body = nn.Sequential(
            nn.Conv2d(1, first, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(second * height * width, settings.num_features),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(settings.num_features, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, D) with values 0..N-1 of any type."""
        return self.head(self._hidden(x))

    def _hidden(self, x: Tensor) -> Tensor:
        return self.body((2 * x.float() / self.top - 1).reshape(-1, 1, *self.grid_shape))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The penultimate layer, float32 (n, `num_features`), of images (n, D) with values 0..N-1."""
        self.eval()
        return torch.cat([self._hidden(part) for part in x.split(BATCH)])

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class, int64 (n,), of images (n, D) with values 0..N-1."""
        return self.log_probs(x).argmax(dim=1)

    @torch.no_grad()
    def log_probs(self, x: Tensor) -> Tensor:
        """ln p(z | x), float64 (n, K), of images (n, D) with values 0..N-1."""
        return self.head(self.features(x)).double().log_softmax(dim=1)

    def hits(self, x: Tensor, classes: Tensor) -> Tensor:
        """Which images (n, D) are assigned to their true class, int64 (n,): bool (n,)."""
        return self.predict(x) == classes


def train_classifier(
    images: Tensor,
    labels: Tensor,
    grid_shape: Sequence[int],
    num_classes: int,
    settings: ClassifierSettings | None = None,
    progress: Progress | None = None,
    num_tokens: int = 2,
) -> ImageClassifier:
    """A classifier trained with AdamW and one cycle of the learning rate, on fresh binarisations or on levels.

    Args:
        images: uint8 (n, D); for N = 2 pixel i is 1 with probability value/255, drawn anew every epoch, and for more
            they hold 0..N-1.
        labels: int64 (n,).
        grid_shape: (height, width).
        num_classes: K.
        settings: see `ClassifierSettings`.
        progress: called with (step, number of steps, loss in nats) after every step.
        num_tokens: N.

    Returns:
        the trained classifier, in eval mode. The global random state is left as it was.
    """
    settings = (settings or ClassifierSettings()).decided()
    batch = min(settings.batch_size, len(images))
    num_steps = settings.epochs * (len(images) // batch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = ImageClassifier(grid_shape, num_classes, settings, num_tokens).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=max(LEAST_STEPS, num_steps), pct_start=0.2
        )
        for step in range(num_steps):
            if step % (len(images) // batch) == 0:
                order = torch.randperm(len(images))
            rows = order[step % (len(images) // batch) * batch :][:batch]
            x = binarize(images[rows], "dynamic") if num_tokens == 2 else images[rows]
            x = _shifted(x.reshape(-1, *grid_shape)).flatten(1)
            loss = _step(model, optimizer, x, labels[rows], settings.precision == "bfloat16")
            schedule.step()
            if progress is not None:
                progress(step + 1, num_steps, loss)
    return model.eval()


def _step(model: ImageClassifier, optimizer: torch.optim.Optimizer, x: Tensor, labels: Tensor, bf16: bool) -> float:
    """One optimiser step on images (B, D) and their labels; the loss in nats."""
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=bf16):
        logits = model(x)
    loss = functional.cross_entropy(logits.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def _shifted(images: Tensor) -> Tensor:
    """Images (B, H, W), each moved by up to `SHIFT` pixels down or up, right or left, with zeros moving in.

    Small images are moved less: by a tenth of their shorter side at most.
    """
    num, height, width = images.shape
    reach = min(SHIFT, height // 10, width // 10)
    padded = functional.pad(images, (reach, reach, reach, reach))
    down, right = torch.randint(2 * reach + 1, (2, num, 1))
    rows = down + torch.arange(height)
    columns = right + torch.arange(width)
    return padded[torch.arange(num)[:, None, None], rows[:, :, None], columns[:, None, :]]


def classifier_for(
    data: ImageData,
    settings: ClassifierSettings | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> ImageClassifier:
    """The classifier of these images: from disk if it was trained before, else trained and saved.

    Args:
        data: images, set up.
        settings: see `ClassifierSettings`.
        folder: where classifiers are kept; default `classifier` in the folder of the data sets.
        progress: called with (step, number of steps, loss in nats) while it is trained.

    Raises:
        UserError: the file on disk is damaged.
    """
    settings = settings or ClassifierSettings()
    path = classifier_path(data, settings, Path(data.root) / FOLDER if folder is None else Path(folder))
    if path.is_file():
        try:
            weights = load(path)
        except Damaged as error:
            raise UserError(_damaged(path)) from error
    else:
        weights = train_classifier(
            data.train_x.cpu(),
            data.train_labels.cpu(),
            data.grid_shape,
            data.num_classes,
            settings,
            progress,
            data.num_tokens,
        ).state_dict()
        store_if_possible(weights, path, "the classifier")
    model = ImageClassifier(data.grid_shape, data.num_classes, settings, data.num_tokens)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:  # weights that do not fit, or none
        raise UserError(_damaged(path)) from error
    return model.eval()


def _damaged(path: Path) -> str:
    return f"the classifier {path} is damaged: delete it, and the next run trains it again"


def classifier_path(data: ImageData, settings: ClassifierSettings, folder: Path) -> Path:
    """The file of a classifier: its name identifies the images and the settings, precision included.

    The precision "auto" is that of the file that is there: measured again, it may be another one in each process.
    """
    if settings.precision == "auto":
        each = [classifier_path(data, replace(settings, precision=one), folder) for one in PRECISIONS]
        there = [path for path in each if path.is_file()]
        return there[0] if there else classifier_path(data, settings.decided(), folder)
    key = repr((data.fingerprint(), data.grid_shape, data.num_classes, astuple(settings), SHIFT, VERSION))
    return folder / f"{data.name}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
