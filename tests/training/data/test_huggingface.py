"""Data sets that Hugging Face's `datasets` saved to disk; all of them made here."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_from_disk
from harness import everything, pairs, ready
from PIL import Image as Pil

from mdlm_cfg.app.cli import CONFIGS
from mdlm_cfg.app.groups import with_recipe
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data import saved_dataset
from mdlm_cfg.training.data.levels import quantize

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 4, 6), dtype=np.uint8)
GREY[:, 0, 0] = 255
LABELS = [k % 3 for k in range(30)]
IDS = RNG.integers(0, 7, (30, 5))


def pictures(mode: str = "L") -> list[Any]:
    return [Pil.fromarray(pixels).convert(mode) for pixels in GREY]


def saved(folder: Path, columns: dict[str, Any], features: Features | None = None) -> str:
    Dataset.from_dict(columns, features).save_to_disk(str(folder))
    return str(folder)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_come_back_with_their_classes(tmp_path: Path, mode: str) -> None:
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "cow", "dog"])})
    folder = saved(tmp_path / "d", {"image": pictures(mode), "label": LABELS}, features)
    data = ready(saved_dataset(folder, levels=4, batch_size=8))
    assert data.example_kind == "images" and data.class_names == ("cat", "cow", "dog")
    assert data.grid_shape == (4, 6) and data.num_tokens == 4 and data.name == "d"
    assert everything(data) == pairs(quantize(torch.from_numpy(GREY), 4), LABELS) and len(data.test_x) == 3
    assert ready(saved_dataset(folder)).fingerprint() != data.fingerprint()
    assert ready(saved_dataset(folder, binarization="threshold")).num_tokens == 2


def test_arrays_of_grey_values_are_images_too(tmp_path: Path) -> None:
    features = Features({"image": Array2D((4, 6), "uint8"), "label": Value("int64")})
    array = saved(tmp_path / "a", {"image": list(GREY), "label": LABELS}, features)
    lists = saved(tmp_path / "b", {"image": GREY.tolist(), "label": LABELS})
    for folder in (array, lists):
        data = ready(saved_dataset(folder, levels=256))
        assert data.example_kind == "images" and everything(data) == pairs(GREY, LABELS)


def test_token_ids_come_back_and_a_part_called_test_is_the_test_set(tmp_path: Path) -> None:
    names = [["a", "b", "c"][k] for k in LABELS]
    parts = {
        "train": Dataset.from_dict({"input_ids": IDS.tolist(), "label": names}),
        "test": Dataset.from_dict({"input_ids": IDS[:4].tolist(), "label": names[:4]}),
        "validation": Dataset.from_dict({"input_ids": IDS[:1].tolist(), "label": names[:1]}),
    }
    DatasetDict(parts).save_to_disk(str(tmp_path / "t"))
    data = ready(saved_dataset(str(tmp_path / "t"), batch_size=4))
    assert data.example_kind == "tokens" and data.class_names == ("a", "b", "c") and data.num_tokens == 7
    assert data.grid_shape == (5,) and pairs(data.train_x, data.train_labels) == pairs(IDS, LABELS)
    assert data.test_x.tolist() == IDS[:4].tolist() and data.test_classes.tolist() == LABELS[:4]
    description = data.describe()
    assert json.loads(json.dumps(description)) == description
    assert next(iter(data.train_dataloader()))[0].dtype == torch.int64


@pytest.mark.parametrize("kinds", [("named", "named"), ("named", "text"), ("text", "named")])
def test_each_part_may_number_the_classes_its_own_way(tmp_path: Path, kinds: tuple[str, str]) -> None:
    animals = {"train": ("cat", "cow", "dog", "cat", "cow", "dog"), "test": ("dog", "cow", "dog", "cat")}
    orders = {"train": ["cat", "cow", "dog"], "test": ["dog", "cat", "cow", "eel"]}
    parts = {}
    for kind, (part, own) in zip(kinds, animals.items()):
        names = ClassLabel(names=orders[part])
        rows = {"input_ids": [[len(part), len(name)] for name in own], "label": list(own)}
        given = Dataset.from_dict(rows)
        parts[part] = given.cast_column("label", names) if kind == "named" else given
    DatasetDict(parts).save_to_disk(str(tmp_path / "t"))
    data = ready(saved_dataset(str(tmp_path / "t"), num_val=1))
    assert data.class_names == ("cat", "cow", "dog")
    assert [data.class_names[k] for k in data.test_examples()[1].tolist()] == list(animals["test"])


def test_other_columns_may_be_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "d", {"ids": IDS.tolist(), "kind": LABELS, "image": ["x"] * 30})
    assert everything(ready(saved_dataset(folder, "ids", "kind"))) == pairs(IDS, LABELS)


def refused(complaint: str, folder: str | Path, **settings: Any) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        ready(saved_dataset(str(folder), **settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "settings", "complaint"),
    [
        ({"text": ["a"] * 30, "label": LABELS}, {}, r"image.*input_ids.*text, label.*data\.column=NAME"),
        ({"input_ids": IDS.tolist(), "y": LABELS}, {}, r"label.*input_ids, y.*data\.label=NAME"),
        ({"input_ids": IDS.tolist(), "label": LABELS}, {"column": "ids"}, r" ids\b.*data\.column=NAME"),
        ({"input_ids": IDS.tolist(), "label": LABELS}, {"levels": 4}, "input_ids.*levels.*binarization"),
        ({"input_ids": [[1] * (2 + k % 2) for k in range(30)], "label": LABELS}, {}, r"input_ids.*\(3,\).*\(2,\)"),
        ({"input_ids": [[0.5, 1.0]] * 30, "label": LABELS}, {}, r"input_ids.*float64.*\(30, 2\)"),
        ({"input_ids": [["a", "b"]] * 30, "label": LABELS}, {}, r"input_ids.*<U1.*\(30, 2\)"),
        ({"input_ids": [[None, 1]] * 30, "label": LABELS}, {}, r"input_ids.*object.*\(30, 2\)"),
        ({"input_ids": IDS.tolist(), "label": [0.5] * 30}, {}, r"label.*float64.*\(30,\)"),
        ({"input_ids": IDS.tolist(), "label": [None] * 30}, {}, r"label.*object.*\(30,\)"),
        ({"input_ids": [*IDS.tolist()[:29], None], "label": LABELS}, {}, "input_ids 29"),
        ({"image": [[[0, 300]]] * 30, "label": LABELS}, {}, r"\(27, 1, 2\).*\b300\b"),
        ({"image": [[[0, 9]]] * 30, "label": LABELS}, {}, r"\b9\b.*levels=10\b"),
    ],
)
def test_bad_columns_are_refused(tmp_path: Path, columns: dict[str, Any], settings: dict[str, Any], complaint: str):
    refused(complaint, saved(tmp_path / "d", columns), **settings)


def test_bad_images_are_refused(tmp_path: Path) -> None:
    features = Features({"image": Image(), "label": Value("int64")})

    def folder(name: str, one: Any) -> str:
        return saved(tmp_path / name, {"image": [*pictures()[:29], one], "label": LABELS}, features)

    refused(r"image.*\(2, 2\).*\(4, 6\)", folder("sizes", Pil.new("L", (2, 2))))
    refused("/clear .*image 29", folder("clear", Pil.new("RGBA", (6, 4), (0, 0, 0, 0))))
    refused("/deep .*image 29.* 8 ", folder("deep", Pil.fromarray(np.full((4, 6), 1000, np.uint16))))
    features = Features({"image": Image(decode=True), "label": Value("int64")})
    refused("/gap .*image 29", folder("gap", None))
    broken = {"image": [{"bytes": b"\x89PNG nothing", "path": None}] * 30, "label": LABELS}
    refused("/broken .*image 0.*PNG, JPEG, GIF", saved(tmp_path / "broken", broken, features))


@pytest.mark.parametrize("part", ["", "train", "test"])
def test_a_part_without_examples_is_refused_before_a_library_fails_on_it(tmp_path: Path, part: str) -> None:
    whole = Dataset.from_dict({"input_ids": IDS.tolist(), "label": LABELS})
    empty = Dataset.from_dict({"input_ids": [], "label": []}, whole.features)
    other = {"train": whole, "test": whole, "validation": empty}  # a part that nothing reads may be empty
    (DatasetDict({**other, part: empty}) if part else empty).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(UserError, match=f"/d.*{part}") as error:
        ready(saved_dataset(str(tmp_path / "d")))
    assert error.value.__cause__ is None and error.value.__context__ is None
    DatasetDict(other).save_to_disk(str(tmp_path / "good"))
    assert len(ready(saved_dataset(str(tmp_path / "good"))).train_x) == len(IDS)


def test_folders_that_hold_no_data_set_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("/none.*save_to_disk", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    refused(r"/empty .*dataset_info\.json", tmp_path / "empty")
    for text in ("{", "[]", '{"features": 3}'):
        (tmp_path / "empty" / "dataset_info.json").write_text(text)
        refused(r"/empty .*(dataset_info\.json|image.*input_ids)", tmp_path / "empty")
    test = Dataset.from_dict({"input_ids": IDS.tolist(), "label": LABELS})
    DatasetDict({"test": test}).save_to_disk(str(tmp_path / "dict"))
    refused("/dict .*train.*test", tmp_path / "dict")
    DatasetDict({"train": test, "test": test.rename_column("label", "y")}).save_to_disk(str(tmp_path / "other"))
    refused(r"\(test\).*input_ids.*label.*input_ids, y", tmp_path / "other")
    folder = Path(saved(tmp_path / "cut", {"input_ids": IDS.tolist(), "label": LABELS}))
    arrow = next(folder.glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    refused("/cut .*save_to_disk", folder)
    plain = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    refused(r"data=datasets.*pip install 'mdlm-cfg\[datasets\]'", folder)


def test_the_recipe_follows_what_is_saved(tmp_path: Path) -> None:
    ids = saved(tmp_path / "ids", {"input_ids": IDS.tolist(), "label": LABELS})
    grey = saved(tmp_path / "grey", {"image": GREY.tolist(), "label": LABELS})
    for folder, recipe in ((ids, "short/hmm"), (grey, "short/mnist"), (tmp_path / "none", "short/mnist")):
        given = ["data=datasets", f"data.path={folder}"]
        assert with_recipe(given, CONFIGS) == [f"experiment={recipe}", *given]
    given = ["data=images", f"data.path={ids}"]
    assert with_recipe(given, CONFIGS) == ["experiment=short/mnist", *given]


def test_a_file_that_is_cut_off_between_two_batches_is_truncated(tmp_path: Path) -> None:
    """Its rows were fewer, without a word."""
    rows = {"input_ids": [[k % 7, k % 3] for k in range(2500)], "label": [k % 2 for k in range(2500)]}
    folder = saved(tmp_path / "ids", rows)
    (path,) = (tmp_path / "ids").glob("*.arrow")
    whole = path.read_bytes()
    with pyarrow.memory_map(str(path)) as file:
        pyarrow.ipc.open_stream(file).read_next_batch()
        boundary = file.tell()
    ready(saved_dataset(folder))
    path.write_bytes(whole[:boundary])
    assert 0 < len(load_from_disk(folder)) < 2500
    with pytest.raises(UserError, match=path.name):
        ready(saved_dataset(folder))
