"""What long work keeps: found again by what it is, and by nothing else."""

from __future__ import annotations

import copy
import errno
import os
import sys
import threading
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import samples_of

from mdlm_cfg.app.report_cache import cache_in, cache_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.draws import draws_of
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support import instantiate
from mdlm_cfg.support.atomic import atomic_write
from mdlm_cfg.support.cache import Cache, no_cache
from mdlm_cfg.support.checked_io import store
from mdlm_cfg.support.instantiate import thing_named
from mdlm_cfg.targets.data import KnownData
from mdlm_cfg.targets.toys import toy_2d_overlap

PLAN = Plan((Guidance(1.0), Guidance(2.0)), Sampler("tau_leaping", 3), num_samples=5, seed=1)


def test_it_is_made_once_and_is_the_same(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> torch.Tensor:
        made.append(1)
        return torch.arange(4, dtype=torch.uint8)

    for _ in range(3):
        assert torch.equal(Cache(tmp_path / "kept", "about")("key", make), torch.arange(4, dtype=torch.uint8))
    assert len(made) == 1 and len(Cache(tmp_path / "kept", "other")) == 1
    Cache(tmp_path / "kept", "other")("key", make)
    Cache(tmp_path / "kept", "about")("another", make)
    assert len(made) == 3
    Cache(tmp_path / "kept", "about").clear()
    assert not (tmp_path / "kept").exists()


def test_another_process_may_remove_the_folder_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commands write to the same report's folder, and the first one to end has cleared its pieces."""

    def stored(value: object, path: Path) -> None:
        if not theirs:
            theirs.append(path.parent.rmdir())
        store(value, path)

    theirs: list[None] = []
    monkeypatch.setattr("mdlm_cfg.support.cache.store", stored)
    kept = Cache(tmp_path / "kept", "about")
    assert kept("key", lambda: 3) == 3 and theirs and len(kept) == 1
    theirs.clear()
    with pytest.raises(FileNotFoundError, match="report"):  # which is gone too
        Cache(tmp_path / "report" / "kept", "about")("key", lambda: 3)


def test_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    kept = Cache(tmp_path / "kept", "about")
    kept("key", lambda: torch.arange(4))
    (path,) = (tmp_path / "kept").iterdir()
    whole = path.read_bytes()
    for content in (whole[:100], whole.replace(torch.arange(4).numpy().tobytes(), bytes(32)), b""):
        path.write_bytes(content)
        assert torch.equal(kept("key", lambda: torch.arange(4)), torch.arange(4))
        assert path.read_bytes() == whole
    for other in ({"value": torch.zeros(4)}, torch.zeros(4), [1]):  # of another version
        store(other, path)
        assert torch.equal(kept("key", lambda: torch.arange(4)), torch.arange(4))


def test_clearing_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    kept = Cache(tmp_path, "about")
    kept("key", lambda: torch.zeros(1))
    mine = {"mine.txt", "weights.tensor", f"{'g' * 24}.mdlm_cfg.tensor", f"{'a' * 24}.tensor"}
    for name in mine:
        (tmp_path / name).write_text("mine")
    assert len(kept) == 1
    kept.clear()
    assert {path.name for path in tmp_path.iterdir()} == mine


def test_a_value_that_cannot_be_stored_leaves_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError(errno.EFBIG, "too large"), KeyboardInterrupt()):
        monkeypatch.setattr(os, "fsync", partial(failing, error))
        with pytest.raises(type(error)):
            Cache(tmp_path / "kept", "about")("key", lambda: torch.zeros(1))
        assert not list(tmp_path.iterdir())


def failing(error: BaseException, *_: object) -> None:
    raise error


def test_a_cache_behind_a_link_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    kept = Cache(tmp_path / "link", "about")
    kept("key", lambda: torch.zeros(1))
    kept.clear()
    assert (tmp_path / "link").is_dir() and not list((tmp_path / "elsewhere").iterdir())


def test_whatever_decides_samples_tells_them_apart(tmp_path: Path) -> None:
    """Samples from the folder are those that would have been drawn, whatever was kept there before."""
    denoiser = toy_2d_overlap().denoiser()
    keep = Cache(tmp_path / "kept", "about")
    first: tuple[Plan, Guidance, int, str] = (PLAN, Guidance(1.0), 0, "exact")
    others: list[tuple[int, object]] = [
        *(
            (0, replace(PLAN, **change))
            for change in (
                {"seed": 2},
                {"num_samples": 6},
                {"sampler": Sampler("tau_leaping", 4)},
                {"sampler": Sampler("euler", 3)},
                {"sampler": Sampler("tau_leaping", 3, "cosine")},
                {"sampler": Sampler()},
                {"sampler": Sampler("first_hitting", policy="uniform")},
            )
        ),
        *(
            (1, guidance)
            for guidance in (
                Guidance(1.0000001),
                Guidance(1.0, "normalized"),
                Guidance(1.0, temperature=0.5),
                Guidance(1.0, top_p=0.9),
            )
        ),
        (2, 1),
        (3, ""),
        (3, "again"),
    ]
    asked = [first, *((*first[:at], other, *first[at + 1 :]) for at, other in others)]
    for _ in range(2):
        for plan, guidance, k, who in asked:
            draws = draws_of(plan, denoiser, guidance, k, who)
            assert torch.equal(samples_of(draws, keep), samples_of(draws, no_cache))
        assert len(keep) == len(asked)


def test_other_test_examples_of_the_same_data_find_nothing(tmp_path: Path) -> None:
    """data.num_test is no part of the fingerprint: NELBOs of 60 examples were said to be of 3,000."""
    few, as_few, more = (KnownData(toy_2d_overlap(), "toy", num_test=num) for num in (20, 20, 30))
    found = [
        float(cache_of(tmp_path, data, None)("key", partial(torch.tensor, v)))
        for v, data in enumerate((few, as_few, more))
    ]
    assert found == [0, 0, 2]


def test_other_weights_data_or_target_find_nothing(tmp_path: Path) -> None:
    def network(seed: int) -> NetDenoiser:
        torch.manual_seed(seed)
        return NetDenoiser(GridTransformer(2, (2,), 2, width=16, depth=1, num_heads=2))

    data = {"fingerprint": "a"}
    cache_in(tmp_path, data, network(0))("key", lambda: torch.zeros(1))
    found = cache_in(tmp_path, data, network(0))("key", lambda: torch.ones(1))
    assert float(found) == 0
    for other in (
        cache_in(tmp_path, data, network(1)),
        cache_in(tmp_path, {"fingerprint": "b"}, network(0)),
        cache_in(tmp_path, data | {"grid_shape": [2, 1]}, network(0)),
        cache_in(tmp_path, data, None),
        cache_in(tmp_path, data, toy_2d_overlap().denoiser()),
        cache_in(tmp_path, data, toy_2d_overlap().denoiser()),  # of which nothing is known
    ):
        assert float(other("key", lambda: torch.ones(1))) == 1


def test_networks_of_the_same_weights_with_other_answers_find_nothing(tmp_path: Path) -> None:
    """repr() of a network shows neither its heads nor its patches: another one's answers were taken for its own."""
    width = 16
    num_dims = 4
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, (20, num_dims), generator=generator)
    classes = torch.randint(3, (20,), generator=generator)
    sides = [(num_dims,), (num_dims // 2, 2), (2, num_dims // 2), (1, num_dims), (num_dims, 1)]
    patches = [(grid, tuple(patch)) for grid in sides for patch in product(*([1, 2, 4] for _ in grid))]
    found: dict[object, bytes] = {}
    for (grid, patch), heads, labels in product(patches, (1, 2, 4), (False, True)):
        if any(side % part for side, part in zip(grid, patch)):
            continue
        sizes = {"width": width, "depth": 1, "num_heads": heads, "label_heads": labels}
        net = GridTransformer(2, grid, 2, patch_size=patch, **sizes)
        for name, one in net.state_dict().items():  # the same numbers wherever the shapes are the same
            one.copy_(torch.sin(torch.arange(one.numel()).view_as(one) * 0.7 + len(name)))
        denoiser = NetDenoiser(net)
        about = cache_in(tmp_path, {}, denoiser).about
        assert about == cache_in(tmp_path, {}, NetDenoiser(copy.deepcopy(net).train())).about
        answers = denoiser(tokens, classes).numpy().tobytes()
        assert found.setdefault(about, answers) == answers
    assert len(set(found.values())) > 10


class Settled(torch.nn.Module):
    """A network with a setting of any sort, and with what a call may leave."""

    num_tokens = num_dims = num_classes = 2

    def __init__(self, setting: object, left: object = None) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))
        torch.nn.init.ones_(self.inner[0].weight)
        torch.nn.init.ones_(self.inner[0].bias)
        self.inner[0].setting = setting
        self.left = left


def test_every_setting_of_a_network_counts_and_what_a_call_leaves_does_not(tmp_path: Path) -> None:
    settings = [None, 1, 2, 1.5, True, "gelu", "relu", torch.relu, torch.sigmoid, torch.float16, (1, 2), (2, 1), [[1]]]
    settings += [{"eps": 1e-5}, {"eps": 1e-6}, SimpleNamespace(heads=2), SimpleNamespace(heads=4), partial(pow, exp=2)]
    nets = [Settled(setting) for setting in settings]
    assert len({repr(cache_in(tmp_path, {}, NetDenoiser(net)).about) for net in nets}) == len(settings)
    lefts = [None, torch.zeros(2), [torch.ones(1)], {"rows": torch.ones(1)}, torch.device("cpu"), threading.Lock()]
    assert len({repr(cache_in(tmp_path, {}, NetDenoiser(Settled(1, left))).about) for left in lefts[1:]}) == 1


def test_code_of_the_users_that_has_changed_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_of_the_cache.py").write_text("from beside_own_of_the_cache import SCALE\n")
    for scale in (1, 2):
        (tmp_path / "beside_own_of_the_cache.py").write_text(f"SCALE = {scale}\n")
        for name in ("own_of_the_cache", "beside_own_of_the_cache"):
            sys.modules.pop(name, None)
        thing_named("own_of_the_cache.SCALE", "net")
        (tmp_path / "beside_own_of_the_cache.py").write_text("SCALE = 3\n")  # what runs has been imported already
        for other in (scale, 0):
            assert int(cache_in(tmp_path, {}, None)("key", partial(torch.tensor, other))) == scale


def test_code_that_is_imported_while_a_value_is_made_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    late = "late_of_the_cache"
    (tmp_path / "early_of_the_cache.py").write_text("SCALE = 1\n")
    thing_named("early_of_the_cache.SCALE", "net")
    for scale in (1, 22):  # another size: Python takes a module of one size and second for the same
        (tmp_path / f"{late}.py").write_text(f"SCALE = {scale}\n")
        monkeypatch.setattr(instantiate, "CODE", {})  # as in a new process
        monkeypatch.setattr(instantiate, "SEEN", instantiate.SEEN - {late})
        sys.modules.pop(late, None)

        def value() -> torch.Tensor:
            return torch.tensor(import_module(late).SCALE)

        for _ in range(2):
            assert int(cache_in(tmp_path, {}, None)("key", value)) == scale


# files that are there whole or not at all


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_an_old_file_survives_whatever_happens_to_a_new_one(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(fault)) as found, atomic_write(path) as file:
        file.write(b"new")
        raise fault
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]
    if isinstance(fault, OSError):
        assert found.value.filename == str(path)


def test_a_folder_that_has_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as found, atomic_write(tmp_path / "gone" / "file"):
        pass
    assert found.value.filename == str(tmp_path / "gone" / "file")


def test_the_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []
    path = tmp_path / "file"
    monkeypatch.setattr(os, "fsync", lambda file: seen.append((os.fstat(file).st_size, path.exists())))
    with atomic_write(path) as file:
        file.write(b"12345")
    assert seen == [(5, False)] and path.read_bytes() == b"12345"
