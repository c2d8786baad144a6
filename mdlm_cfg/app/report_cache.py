"""The contents of a report's folder from an earlier evaluation: a report to replace, or samples to continue from."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from mdlm_cfg.app.places import shown_path
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.reports.tables import write_json
from mdlm_cfg.support.atomic import naming, part_folder, read_mapping, remove_parts
from mdlm_cfg.support.by_value import settings_key
from mdlm_cfg.support.cache import Cache
from mdlm_cfg.support.errors import not_ours
from mdlm_cfg.targets.data import Data
from mdlm_cfg.training.checkpoints import stamp
from mdlm_cfg.training.data.base import content_hash

NUMBERS = "report.json"
CACHE = "cache"  # a folder beside the report, until the report is written
TEST = "test examples"  # a key of the data's description, for a cache


def files_of(folder: Path, record: str = NUMBERS) -> set[str]:
    """The files that a record of mdlm_cfg in this folder names; none where there is no such record.

    Args:
        record: the JSON file with the "files" of a report, of samples or of a comparison.
    """
    found = read_mapping(folder / record)
    of_report = {"run", "data", "test"} if record == NUMBERS else set()
    is_ours = str(found.get("title")).startswith("mdlm_cfg: ") and of_report <= found.keys()
    names = found.get("files") if is_ours else None
    return {name for name in map(str, names) if Path(name).name == name} if isinstance(names, list) else set()


def check_places_for(names: Iterable[str], folder: Path, earlier: set[str]) -> None:
    """Raise UserError where a command would replace a file, or a link, that mdlm_cfg did not write."""
    for name in names:
        if os.path.lexists(folder / name) and name not in earlier:
            raise not_ours(folder / name)


def take_places(part: Path, folder: Path, earlier: set[str], record: str = NUMBERS) -> None:
    """Move the files of a report from the folder where they were written into its own, and remove an earlier report's.

    Files left behind could be mistaken for those of the new report. The record is moved first, and lists the earlier
    files too until they are removed: whenever this is interrupted, the next command knows that all of them are ours.

    Raises:
        UserError: one of them would replace a file that no report wrote; nothing has been moved then.
    """
    names = sorted((path.name for path in part.iterdir()), key=lambda name: name != record)
    check_places_for(names, folder, earlier)
    found = json.loads((part / record).read_text(encoding="utf-8"))
    others = earlier - set(found["files"])
    if others:
        write_json({**found, "files": [*found["files"], *sorted(others)]}, part / record)
    for name in names:
        with naming(folder / name):
            (part / name).replace(folder / name)
    for name in others:
        (folder / name).unlink(missing_ok=True)
    if others:
        write_json(found, part / record).replace(folder / record)


@contextmanager
def written_together(folder: Path, record: str, title: str, names: Iterable[str]) -> Iterator[Path]:
    """A hidden folder for the files of a command, which are moved into `folder` together, with a record of them.

    An earlier command's files are replaced or, if the new one did not write them, removed; no others are touched.

    Args:
        record: the name of the JSON file that lists them, besides what else is written into it. title: its title.
        names: some that will be written.

    Raises:
        UserError: one of the files, or of `names`, would replace one that mdlm_cfg did not write.
    """
    remove_parts(folder)
    earlier = files_of(folder, record)
    check_places_for((*names, record), folder, earlier)
    with part_folder(folder, record) as part:
        yield part
        files = sorted({record, *(path.name for path in part.iterdir())})
        more = json.loads((part / record).read_text(encoding="utf-8")) if (part / record).is_file() else {}
        write_json({"title": f"mdlm_cfg: {title}", "files": files, **more}, part / record)
        earlier = files_of(folder, record)  # another process may have written them meanwhile
        take_places(part, folder, earlier, record)


def cache_in(folder: Path, data: Mapping[str, Any], denoiser: Denoiser | None) -> Cache:
    """The cache in a report's folder, which an interrupted evaluation of the same network, data and code has filled.

    A denoiser that is not a network has no weights to recognise it by, so none of its pieces are reused.

    Args:
        data: their description, with a hash under `TEST`.

    Raises:
        UserError: something else has that name, which would otherwise be noticed only after the first piece.
    """
    if os.path.lexists(folder / CACHE) and not (folder / CACHE).is_dir():
        raise not_ours(folder / CACHE)
    who: object = "exact"
    if isinstance(denoiser, NetDenoiser):
        state = denoiser.net.state_dict().values()  # for a user's own network it may hold more than tensors
        weights = [value.cpu() if isinstance(value, Tensor) else repr(value) for value in state]
        who = content_hash(*weights, settings_key(denoiser.net)), denoiser.bf16, denoiser.device.type
    elif denoiser is not None:
        who = uuid.uuid4().hex
    about = [data.get(key) for key in ("fingerprint", "grid_shape", TEST)]
    return Cache(folder / CACHE, (stamp()["version"], *about, who))


def cache_of(folder: Path, data: Data, denoiser: Denoiser | None) -> Cache:
    """`cache_in`, for the pieces of a study, some of which depend on the test examples, whose number a setting gives.

    Args:
        data: set up.
    """
    has_examples = data.target is not None or data.example_kind is not None
    return cache_in(
        folder, data.describe() | {TEST: content_hash(*data.test_examples()) if has_examples else ""}, denoiser
    )


@contextmanager
def saying_cached(cache: Cache, again: str) -> Iterator[None]:
    """After an interrupt or an error inside, say where finished pieces are; the arguments `again` reuse them."""
    try:
        yield
    except BaseException:
        if len(cache):
            where = shown_path(cache.folder)
            print(
                f"the pieces so far are in {where}: continue from them with the same settings and {again}",
                file=sys.stderr,
            )
        raise
