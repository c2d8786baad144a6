"""Validation examples that are held out of training: the three sets share nothing, and stay the same in a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TINY, refusal, run
from folders_of_images import write_classes
from harness import batches, ready, small_module
from hypothesis import given, settings, strategies as st
from idx_files import write_images
from stored_examples import Make, columns, idx, images, tokens
from torch import Tensor

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.checkpoints import OUTLINE, newest_run
from mdlm_cfg.training.data import ExampleData, ImageData, text_file
from mdlm_cfg.training.data.examples import LEAST, Examples, held_out
from mdlm_cfg.training.fit import check_resume
from mdlm_cfg.training.runs import load_run


def rows_of(num: int) -> Tensor:
    """Examples that all differ: the digits of their number, int64 (num, 3)."""
    x = torch.arange(num)
    return torch.stack([x // 100, x // 10 % 10, x % 10], dim=1)


def module(labels: Tensor, num_test: int = 4, **more: Any) -> ExampleData:
    """Data of examples that all differ; the last ones are for testing."""
    x = rows_of(len(labels) + num_test)
    train = slice(len(labels))
    found = Examples(x[train], labels, x[len(labels) :], labels[:1].expand(num_test))
    return ExampleData(lambda: found, "numbered", batch_size=4, **more)


def numbers(x: Tensor) -> set[int]:
    """The numbers of examples of `rows_of`."""
    return set((x.long() @ torch.tensor([100, 10, 1])).tolist())


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(1, 80))
def test_any_split_is_a_partition_that_leaves_two_of_each_class(classes: list[int], num: int) -> None:
    labels = torch.tensor([k for k in range(max(classes) + 1) for _ in range(LEAST)] + classes)
    free = len(labels) - LEAST * (max(classes) + 1)
    if num > free:
        with pytest.raises(UserError, match=str(free) if free else "hold_out=false"):
            held_out("x", labels, num)
        return
    train, val = held_out("x", labels, num)
    assert len(val) == num and sorted([*train.tolist(), *val.tolist()]) == list(range(len(labels)))
    assert torch.equal(train, train.sort().values)
    assert int(torch.bincount(labels[train], minlength=max(classes) + 1).min()) >= LEAST


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 3), st.integers(1, 3))
def test_no_example_is_in_two_of_the_three_sets(num_val: int, num_classes: int, seed: int, world: int) -> None:
    labels = torch.arange(80) % num_classes
    data = ready(module(labels, hold_out=True, num_val=num_val, seed=seed))
    val = torch.cat([x for x, _ in data.val_dataloader()])
    test = torch.cat([x for x, _ in data.test_dataloader()])
    trained_on = [x for epoch in range(3) for rank in range(world) for x in batches(data, epoch, rank, world)]
    examples = [data.train_examples(k, torch.Generator()) for k in range(num_classes)]
    sets = numbers(data.train_x), numbers(val), numbers(test)
    assert [len(one) for one in sets] == [80 - num_val, num_val, 4]
    assert set.union(*sets) == set(range(84))
    assert numbers(torch.cat(trained_on)) <= sets[0] and numbers(torch.cat(examples)) == sets[0]
    x, classes = data.val_examples()
    assert numbers(x) == sets[1] and torch.equal(classes, (x @ torch.tensor([100, 10, 1])) % num_classes)
    again = ready(module(labels, hold_out=True, num_val=num_val, seed=seed + 1))
    assert torch.equal(again.val_examples()[0], x) and again.fingerprint() == data.fingerprint()


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_part_of_the_examples_is_of_all_classes_in_their_shares(part: str) -> None:
    labels = torch.arange(5).repeat_interleave(torch.tensor([320, 160, 160, 80, 80]))  # in the order of their classes
    few, many = (rows_of(10), torch.arange(10) // 2), (rows_of(800), labels)
    examples = Examples(*few, *many) if part == "test" else Examples(*many, *few)
    rows = []
    for num, seed in ((400, 0), (400, 1), (100, 0), (800, 0)):
        size = {"num_val": 1, "num_test": num} if part == "test" else {"num_val": num, "hold_out": False}
        data = ready(ExampleData(lambda: examples, "sorted", seed=seed, **size))
        x, classes = data.test_examples() if part == "test" else data._val
        rows.append(numbers(x))
        assert len(rows[-1]) == len(x) == num and torch.equal(classes, labels[sorted(rows[-1])])
        assert (classes.bincount() / len(x) - labels.bincount() / 800).abs().max() < 4 * 0.5 / len(x) ** 0.5
    assert rows[2] < rows[0] == rows[1] < rows[3]


def test_every_class_is_held_out_as_often_as_it_occurs_and_not_by_a_share_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = []
    for num in range(4000, 4040):  # the draw follows the number of examples
        labels = torch.randint(4, (num,), generator=generator)
        expected = 1000 * torch.bincount(labels) / num
        held = torch.bincount(labels[held_out("x", labels, 1000)[1]])
        scores += ((held - expected) / (expected * (1 - 1000 / num) * (1 - expected / 1000)).sqrt()).tolist()
    each = torch.tensor(scores)
    assert abs(float(each.mean())) < 0.4 and 0.75 < float(each.std()) < 1.25  # of 160 standard normal numbers


def folders(folder: Path) -> Make:
    write_classes(folder / "f", {"cat": 30, "dog": 40})
    return lambda **more: ImageData(str(folder / "f"), levels=256, **more)


def text(folder: Path) -> Make:
    (folder / "t.txt").write_text("".join(f"{row % 3}\t{row:03d}\n" for row in range(90)))
    return lambda **more: text_file(folder / "t.txt", **more)


@pytest.mark.parametrize("make", [idx, folders, images, tokens, text, columns])
def test_data_of_every_kind_hold_examples_out(tmp_path: Path, make: Callable[[Path], Make]) -> None:
    of = partial(make(tmp_path), relabel=True)
    plain = ready(of(num_val=7))
    held = ready(of(num_val=7, hold_out=True))
    share = ready(of(num_val=None, hold_out=True))
    trained_on = set(map(tuple, plain.train_x.tolist()))
    assert plain.val_examples() is None and set(map(tuple, plain._val[0].tolist())) < trained_on
    for data, num in ((held, 7), (share, round(len(plain.train_x) / 10))):
        sets = [set(map(tuple, x.tolist())) for x in (data.train_x, data.val_examples()[0], data.test_x)]
        everything = set(map(tuple, torch.cat([plain.train_x, plain.test_x]).tolist()))
        assert sum(map(len, sets)) == len(everything) and set.union(*sets) == everything
        assert len(sets[1]) == num == data.num_val == data.describe()["num_held_out"]
        assert json.loads(json.dumps(data.describe())) == data.describe()
    assert plain.describe()["num_held_out"] == 0
    prints = [data.fingerprint() for data in (plain, held, share, ready(of(num_val=8, hold_out=True)))]
    assert len({*prints[:2], prints[3]}) == 3 and ready(of(num_val=8)).fingerprint() == prints[0]
    for num in (len(plain.train_x), 10**6):
        with pytest.raises(UserError, match="num_val") as error:
            ready(of(num_val=num, hold_out=True))
        assert "\n" not in str(error.value)


WRONG = [("hold_out", one) for one in ("maybe", 1, None, "true")]
WRONG += [("num_val", one) for one in (0, -1, 1.5, True, "many")]


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_wrong_settings_are_refused(name: str, wrong: Any) -> None:
    with pytest.raises(UserError, match=name):
        module(torch.arange(80) % 2, **({"hold_out": True} | {name: wrong}))


def test_binary_images_keep_one_draw_of_their_validation_pixels(root: str) -> None:
    for how in ("dynamic", "static", "threshold"):
        one, two = (ready(ImageData(root=root, binarization=how, hold_out=True, num_val=9, seed=s)) for s in (0, 1))
        assert torch.equal(one.val_examples()[0], two.val_examples()[0]) and one.fingerprint() == two.fingerprint()
        assert int(one.val_examples()[0].max()) == 1


def test_a_checkpoint_goes_on_with_its_own_split_alone(checkpoint: Path, tmp_path: Path) -> None:
    labels = torch.arange(80) % 2
    prepared = {num: ready(module(labels, hold_out=num > 0, num_val=max(num, 1))) for num in (0, 5, 6)}
    records = {num: dict(small_module(data).hparams) for num, data in prepared.items()}
    content = torch.load(checkpoint, weights_only=True)
    content.pop(OUTLINE)  # it is changed here, as checkpoints of earlier versions may be
    for there in records:
        saved = tmp_path / f"{there}.ckpt"
        torch.save(content | {"hyper_parameters": content["hyper_parameters"] | records[there]}, saved)
        for here in records:
            if here == there:
                check_resume(saved, records[here])
                continue
            with pytest.raises(UserError, match=f"data.num_val={there}" if there else "data.hold_out=false"):
                check_resume(saved, records[here])
    older = {key: value for key, value in records[0]["data"].items() if key != "num_held_out"}
    torch.save(content | {"hyper_parameters": content["hyper_parameters"] | records[0] | {"data": older}}, saved)
    check_resume(saved, records[0])
    with pytest.raises(UserError, match=r"data\.hold_out=false"):
        check_resume(saved, records[5])


def test_commands_hold_out_by_default_what_is_ones_own_and_keep_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "own", 90, 30, classes=3)
    given = (*TINY, "data=idx", f"data.path={tmp_path / 'own'}", "data.batch_size=20", "threads=1", "logger=csv")
    quick = ("evaluate=false", "num_draws=1", "net.patch_size=4", "net.stem_channels=4", f"runs={tmp_path / 'runs'}")
    assert run("train", *given, *quick) == 0
    trained = newest_run(tmp_path / "runs")
    description = load_run(trained).data
    assert description["num_held_out"] == 9
    more = ("trainer.max_epochs=3", f"ckpt_path={trained}")
    before = sorted((tmp_path / "runs").rglob("*"))
    assert "data.num_val=9" in refusal(capsys, "train", *given, *quick, *more, "data.num_val=10")
    assert "data.num_val=9" in refusal(capsys, "train", *given, *quick, *more, "data.hold_out=false")
    asked = (f"ckpt_path={trained}", "study=likelihood", "target_class=0", "w=[0]")
    assert "data.num_val=9" in refusal(capsys, "eval", *asked, "data.hold_out=false")
    assert "data.num_val" in refusal(capsys, "train", *given, *quick, "data.num_val=85")
    assert "hold_out" in refusal(capsys, "train", *given, *quick, "data.hold_out=maybe")
    assert sorted((tmp_path / "runs").rglob("*")) == before
    assert run("train", *given, *quick, *more) == 0
    assert load_run(newest_run(tmp_path / "runs")).data == description
