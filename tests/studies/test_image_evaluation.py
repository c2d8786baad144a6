"""Samples of images judged beside held-out data: an exact denoiser on small images, and the report's pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Blurred, block_of, conclusion, decimals

from mdlm_cfg import Guidance, Sampler, TableMixture
from mdlm_cfg.compare.image_judge import BY_CLASSIFIER
from mdlm_cfg.compare.images import independent_nelbos
from mdlm_cfg.reports.render import drawing_of, sections_of
from mdlm_cfg.studies.common import LONGER
from mdlm_cfg.studies.findings import Findings, Mosaic
from mdlm_cfg.studies.image_models import IMAGE, JudgeRow
from mdlm_cfg.studies.images import CLASSIFIER, Images, verdict_of
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, run
from mdlm_cfg.studies.simple_models import nelbo_rows, training_sentence
from mdlm_cfg.support.numbers import short
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.training.classifier import ClassifierSettings, ImageClassifier, train_classifier
from mdlm_cfg.training.data import BinaryImageData

SETTINGS = ClassifierSettings(channels=(4, 8), num_features=8, epochs=5, batch_size=50, learning_rate=0.02, dropout=0.0)


def target() -> BernoulliMixture:
    """Three classes of 4 x 5 images, two components each."""
    g = torch.Generator().manual_seed(0)
    p = torch.sigmoid(3 * torch.randn(3, 2, 20, generator=g, dtype=torch.float64))
    return BernoulliMixture(p, torch.full((3, 2), 0.5), torch.full((3,), 1 / 3))


@pytest.fixture(scope="module")
def data() -> BinaryImageData:
    """Training and test images drawn from the target itself."""
    module = BinaryImageData()
    x, module.train_labels = target().sample(1500, torch.Generator().manual_seed(1))
    module.train_x = (255 * x).to(torch.uint8)
    test, classes = target().sample(600, torch.Generator().manual_seed(2))
    module._test = test.to(torch.uint8), classes
    module.grid_shape = (4, 5)
    module.num_classes = 3
    module._ready = True
    return module


@pytest.fixture(scope="module")
def classifier(data: BinaryImageData) -> ImageClassifier:
    return train_classifier(data.train_x, data.train_labels, (4, 5), 3, SETTINGS)


def plan_of(*guidances: Guidance, n: int = 120, classes: tuple[int, ...] | None = None, seed: int = 0) -> Plan:
    return Plan(guidances, Sampler(), n, seed, classes)


def case_of(images: Any, denoiser: Any, plan: Plan, classifier: ImageClassifier | None = None) -> Case:
    case = Case.of(images, denoiser, plan)
    if classifier is not None:
        case.made[CLASSIFIER] = classifier
    return case


def found_of(
    images: Any, denoiser: Any, plan: Plan, classifier: ImageClassifier | None, num: int = 0, draws: int = 2
) -> Findings:
    study = Images(classifier is not None, num_classified=num, num_draws=draws)
    return run(study, case_of(images, denoiser, plan, classifier))


@pytest.fixture(scope="module")
def found(data: BinaryImageData, classifier: ImageClassifier) -> Findings:
    return found_of(data, target().denoiser(), plan_of(Guidance(0.0), Guidance(2.0)), classifier, 100, 20)


def test_unguided_exact_samples_score_like_held_out_data_and_guided_ones_do_not(found: Findings) -> None:
    own, guided, floor = block_of(found, "distances")
    for name in ("accuracy", "precision", "recall"):
        assert getattr(own, name) == pytest.approx(getattr(floor, name), abs=0.06)
    for name in ("mean_rms", "covariance"):
        assert getattr(own, name) == pytest.approx(getattr(floor, name), rel=0.3)
    assert own.diversity == pytest.approx(floor.diversity, rel=0.05) and abs(own.energy_pixels) < 0.02
    assert guided.mean_rms > 1.15 * own.mean_rms and guided.energy_pixels > own.energy_pixels
    assert guided.accuracy >= own.accuracy
    assert not any("num_samples=" in said for said in found.verdict)


def test_samples_are_those_of_the_plans_generators_judged_by_hand(
    data: BinaryImageData, classifier: ImageClassifier
) -> None:
    """Another kind, sampler and schedule than the default, other classes than all: what was asked for is what ran."""
    guidance = Guidance(1.5, "normalized")
    plan = Plan((guidance,), Sampler("event_leaping", 3, "linear"), 40, seed=7, classes=(2, 1))
    found = found_of(data, target().denoiser(), plan, classifier)
    assert len(block_of(found, "classifiers")) == 1 and found.facts["data"]["classes"] == [2, 1]
    assert found.arrays["w1.5"].shape == (2, 40, 4, 5)
    for at, k in enumerate((2, 1)):
        generator = plan.generator("samples", guidance, k, num_dims=20)
        x = plan.sampler.draw(target().denoiser(), guidance, k, 40, generator)
        assert np.array_equal(found.arrays["w1.5"][at].reshape(40, 20), x)
        pairs = (x[:, None] != x).sum(dim=2).double()
        row = block_of(found, "by_class")[at]
        assert (row.target_class, row.diversity) == (k, pytest.approx(float(pairs.sum() / (40 * 39))))
        assert row.accuracy == float((classifier.predict(x) == k).double().mean())
    (warned,) = [said for said in found.verdict if "num_samples=" in said]
    assert "80" in warned.split() and f" {0.5 / 80**0.5:.2f}, " in warned


def test_the_network_is_judged_beside_models_without_structure(data: BinaryImageData, found: Findings) -> None:
    """Exact conditionals are trained; nearly uniform ones are not; independent pixels are known in closed form."""
    network, independent, uniform = block_of(found, "nelbo")
    assert uniform.nelbo == pytest.approx(20 * np.log(2)) and uniform.excess > independent.excess > 0
    below = [short(value, 1) for value in (independent.excess, independent.excess_se)]
    assert decimals(found.verdict[0]) == [f"{network.nelbo:.1f}", f"{independent.nelbo:.1f}", *below]
    assert LONGER not in found.verdict[0]
    plan = plan_of(Guidance(1.0), n=2)
    nothing = found_of(data, Blurred(target(), 1.0), plan, None, 100, 20)
    assert decimals(nothing.verdict[0]) == [f"{20 * np.log(2):.1f}"] * 2 and nothing.verdict[0].endswith(LONGER)
    assert block_of(nothing, "nelbo")[0].nelbo == pytest.approx(20 * np.log(2))
    x = torch.tensor([[0, 1], [1, 1]])
    train = torch.tensor([[0, 1], [0, 0], [1, 1]])
    expected = -torch.tensor([[3 / 5, 3 / 5], [2 / 5, 3 / 5]]).log().sum(1)
    torch.testing.assert_close(independent_nelbos(x, train, 2).float(), expected)
    assert independent_nelbos(x, train[:0], 2).tolist() == pytest.approx([2 * np.log(2)] * 2)


def test_a_network_between_the_two_models_is_barely_trained() -> None:
    network = torch.tensor([10.0, 10.0, 11.0]).double()
    rows = nelbo_rows(network, torch.stack([network - 1, network + torch.tensor([4.0, 5.0, 5.0])]), IMAGE)
    assert [row.excess for row in rows] == pytest.approx([0, -1, 14 / 3]) and rows[1].excess_se == 0
    assert rows[2].excess_se == pytest.approx(1 / 3) and training_sentence(rows, IMAGE, 2).endswith(LONGER)
    assert decimals(training_sentence(rows, IMAGE, 2)) == [f"{row.nelbo:.1f}" for row in rows[:2]]


def test_one_value_per_example_has_no_structure_that_a_network_could_lack() -> None:
    """The best network on one coordinate is as good as the frequencies of its values; one that is worse lacks them."""
    of_best = torch.tensor([0.1, 2.3, 0.1, 0.1]).double()
    for network, is_trained in ((of_best, True), (of_best + 0.01, False)):
        rows = nelbo_rows(network, torch.stack([of_best, torch.full_like(of_best, 9.0)]), IMAGE)
        assert (LONGER not in training_sentence(rows, IMAGE, 1)) == is_trained
        assert training_sentence(rows, IMAGE, 2).endswith(LONGER)


def test_a_network_that_is_better_by_chance_is_not_said_to_be_no_better() -> None:
    network = torch.tensor([1.0, 2.0, 3.0]).double()
    better, worse = (network + torch.tensor(by) for by in ([2.0, -1.0, 1.0], [-2.0, 1.0, -1.0]))
    clear = network + 9
    for pairs in (((clear, better), (clear, worse)), ((better, clear), (worse, clear))):
        rows = [nelbo_rows(network, torch.stack(pair), IMAGE) for pair in pairs]
        assert len({conclusion(training_sentence(one, IMAGE, 2)) for one in rows}) == 2


@pytest.mark.parametrize("num", [2, 3, 5])
def test_a_few_examples_rarely_show_that_a_network_without_structure_has_learned_any(num: int) -> None:
    """The network is as good as independent pixels in the mean, and the examples of both vary: 1 in 44 is expected."""
    g = torch.Generator().manual_seed(num)
    shown = 0
    for _ in range(400):
        network = torch.randn(num, generator=g).double()
        rows = nelbo_rows(network, torch.stack([torch.randn(num, generator=g).double(), network + 5]), IMAGE)
        shown += not training_sentence(rows, IMAGE, 2).endswith(LONGER)
    assert shown <= 20


@pytest.mark.parametrize("gap", [0.3, 0.03, 1e-4])
def test_a_network_that_is_better_has_a_smaller_number(gap: float) -> None:
    """A network was said to be at 4.1 nats, below the 4.1 of independent pixels."""
    network = torch.full((9,), 4.12).double()
    for num_dims, others in ((2, [network + gap, network + 5]), (1, [network, network + gap])):
        said = training_sentence(nelbo_rows(network, torch.stack(others), IMAGE), IMAGE, num_dims)
        own, theirs, *_ = map(float, decimals(said))
        assert own < theirs and LONGER not in said


def test_the_error_of_a_difference_is_never_shown_as_0_where_it_is_not() -> None:
    network = torch.tensor([1.0, 1.01]).double()
    one, two = (nelbo_rows(network[:n], torch.stack([2 * network, 3 * network])[:, :n], IMAGE) for n in (1, 2))
    assert [float(value) for value in decimals(training_sentence(two, IMAGE, 2))[-1:]] == pytest.approx(
        [0.005], abs=1e-3
    )
    assert [row.excess_se for row in one] == [None] * 3
    assert decimals(training_sentence(one, IMAGE, 2)) == ["1.0"] and LONGER not in training_sentence(one, IMAGE, 2)


def test_a_classifier_that_is_not_good_enough_is_said(found: Findings) -> None:
    warned = []
    for accuracy, num in ((0.43, 42), (0.3, 10_000), (0.8, 1000), (0.95, 1000)):
        row = JudgeRow("classifier", accuracy, accuracy, 1 / 3, num)
        *said, _, _ = verdict_of(block_of(found, "distances"), [], [row], 360, 20)
        each = f"{100 * accuracy:.1f}"
        assert [decimals(sentence) for sentence in said] == [[each, each, "33.3"]] * (accuracy < 0.95)
        warned += [conclusion(sentence) for sentence in said]
    assert warned[0] == warned[1] != warned[2]  # too weak to rely on what it measures; and only rough
    assert ["precision" in sentence for sentence in warned] == [True, True, False]


def test_a_classifier_that_fails_on_a_rare_class_is_said(found: Findings) -> None:
    """The accuracies of samples are means over classes, where a rare class counts as much as any other."""
    labels = torch.arange(3).repeat_interleave(torch.tensor([100, 60, 4]))
    row = JudgeRow.of("classifier", labels < 2, labels, torch.tensor([0.6, 0.3, 0.1]))
    assert row.test_accuracy == 160 / 164 and row.class_accuracy == pytest.approx(2 / 3) and row.commonest == 100 / 164
    said, *_ = verdict_of(block_of(found, "distances"), [], [row], 360, 20)
    assert decimals(said) == ["97.6", "66.7", "61.0"]


def test_the_class_that_is_always_named_is_the_commonest_of_training(data: BinaryImageData) -> None:
    """That of the test images would be chosen by what is judged, and be right too often by chance."""
    shifted = BinaryImageData()
    vars(shifted).update(vars(data))
    parts = ((data.train_labels, (10, 10, 40)), (data.test_classes, (60, 0, 20)))
    train, test = (
        torch.cat([(labels == k).nonzero().squeeze(1)[:num] for k, num in enumerate(numbers)])
        for labels, numbers in parts
    )
    shifted.train_x, shifted.train_labels = data.train_x[train], data.train_labels[train]
    shifted._test = data.test_x[test], data.test_classes[test]
    (row,) = block_of(found_of(shifted, target().denoiser(), plan_of(Guidance(0.0), n=2), None, 80), "classifiers")
    assert row.commonest == 20 / 80 and not row.is_useless


def test_the_page_shows_everything(found: Findings, tmp_path: Path) -> None:
    sections = sections_of(found, tmp_path)
    pictures = [picture.path for section in sections for picture in section.pictures]
    assert len(pictures) == 6 and all(path.stat().st_size > 1000 for path in pictures)
    assert tmp_path / "samples.png" in pictures
    (network,) = [row for row in block_of(found, "classifiers") if row.judge == "nelbo"]
    assert network.num_images == 100 and network.test_accuracy > 0.8
    assert found.numbers()["recall_data"] == block_of(found, "distances")[-1].recall


def test_the_images_beside_samples_are_test_images_of_their_class(data: BinaryImageData, found: Findings) -> None:
    shown = next(block.views[0] for block in found.blocks if block.name == "samples")
    assert isinstance(shown, Mosaic) and list(shown.images) == ["test images", "w = 0", "w = 2"]
    for k, images in enumerate(shown.images["test images"].reshape(3, -1, 20)):
        own = {tuple(x) for x in data.test_x[data.test_classes == k].tolist()}
        assert all(tuple(x) in own for x in images.tolist())


def test_a_class_without_test_images_is_left_out_of_the_means_that_are_compared(
    data: BinaryImageData, classifier: ImageClassifier
) -> None:
    few = BinaryImageData()
    vars(few).update(vars(data))
    chosen = (data.test_classes != 1).nonzero()[:, 0]
    few._test = data.test_x[chosen], data.test_classes[chosen]
    findings = found_of(few, target().denoiser(), plan_of(Guidance(0.0), n=30), classifier)
    by_class = {(row.w, row.target_class): row for row in block_of(findings, "by_class")}
    for row in block_of(findings, "distances"):
        for name in ("diversity", "accuracy", "energy_pixels"):
            parts = [getattr(by_class[row.w, k], name) for k in (0, 2)]
            assert getattr(row, name) == pytest.approx(sum(parts) / 2)


@pytest.mark.parametrize("num", [1, 7])
def test_fewer_test_images_than_samples_are_all_shown(
    data: BinaryImageData, classifier: ImageClassifier, num: int
) -> None:
    few = BinaryImageData()
    vars(few).update(vars(data))
    chosen = (data.test_classes == 1).nonzero()[:num, 0]
    few._test = data.test_x[chosen], data.test_classes[chosen]
    plan = plan_of(Guidance(0.0), n=8, classes=(1,))
    found = found_of(few, target().denoiser(), plan, classifier, 5)
    assert found.facts["data"]["num_held_out"] == num
    shown = next(block.views[0] for block in found.blocks if block.name == "samples")
    known = ~np.isnan(shown.images["test images"][0]).any(axis=(1, 2))
    assert known.tolist() == [k < num for k in range(8)]
    assert drawing_of(shown, []) is not None
    own, reference = block_of(found, "distances")
    assert own.diversity is not None and (reference.diversity is None) == (num == 1)
    json.dumps(found.to_dict(), allow_nan=False)


def grey_target() -> TableMixture:
    """Two classes of 2 x 3 images of three shades: grey ones, and black and white ones."""
    each = torch.tensor([[0.1, 0.8, 0.1], [0.5, 0.1, 0.4]], dtype=torch.float64)
    pmfs = torch.stack([torch.einsum("a,b,c,d,e,f->abcdef", *[p] * 6) for p in each])
    return TableMixture(pmfs, torch.full((2,), 0.5))


def test_grey_levels_are_judged_by_their_shades() -> None:
    grey = BinaryImageData(levels=3)
    known = grey_target()
    x, grey.train_labels = known.sample(1000, torch.Generator().manual_seed(1))
    test, classes = known.sample(200, torch.Generator().manual_seed(2))
    grey.train_x = x.to(torch.uint8)
    grey._test = (test.to(torch.uint8), classes)
    grey.grid_shape = (2, 3)
    grey.num_classes = 2
    grey._ready = True
    grey.class_names = ("dull", "sharp")
    trained = train_classifier(grey.train_x, grey.train_labels, (2, 3), 2, SETTINGS, num_tokens=3)
    assert trained.hits(grey.test_x, grey.test_classes).double().mean() > 0.8
    found = found_of(grey, known.denoiser(), plan_of(Guidance(1.0), n=40), trained)
    drawn = torch.from_numpy(found.arrays["w1"][1]).reshape(40, 6).double() / 2
    row = block_of(found, "by_class")[1]
    own = grey.train_x[grey.train_labels == 1].double() / 2
    pairs = (drawn[:, None] - drawn).square().sum(dim=2)
    assert row.diversity == pytest.approx(float(pairs.sum() / (40 * 39)))
    nearest = (drawn[:, None] - own).square().sum(dim=2).min(dim=1).values
    assert row.nearest_train == pytest.approx(float(nearest.mean()), abs=1e-6)
    assert row.mean_rms == pytest.approx(float((drawn.mean(0) - own.mean(0)).square().mean().sqrt()))
    energy = 2 * torch.cdist(drawn, own).mean() - pairs.sqrt().sum() / (40 * 39)
    energy -= torch.cdist(own, own).sum() / (len(own) * (len(own) - 1))
    assert row.energy_pixels == pytest.approx(float(energy), abs=1e-6)
    assert row.class_name == "sharp"


def test_without_a_classifier_its_numbers_are_absent_and_the_others_the_same(
    data: BinaryImageData, found: Findings, tmp_path: Path
) -> None:
    without = found_of(data, target().denoiser(), plan_of(Guidance(0.0), Guidance(2.0)), None)
    for name in ("distances", "by_class"):
        for full, row in zip(block_of(found, name), block_of(without, name), strict=True):
            assert vars(row) == vars(full) | dict.fromkeys(BY_CLASSIFIER)
    assert not block_of(without, "classifiers") and not [n for n in without.numbers() if "accuracy" in n]
    assert all(sentence and "classifier" not in sentence for sentence in without.verdict)
    sections = sections_of(without, tmp_path)
    assert not any("accuracy" in column for s in sections if s.table is not None for column in s.table.columns)
