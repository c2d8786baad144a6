"""hydra's compositions within the tests' own process, without what it repeats: most of the time of a short command.

What hydra takes from this repository's conf/ is the same for equal choices of groups, so it is merged once, and hydra
merges the values of the command line into a copy. Nothing is remembered of other folders of files, or of errors, and
commands in processes of their own are as they are for a user.
"""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hydra._internal import config_loader_impl as loader
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from omegaconf.base import Metadata

from mdlm_cfg.app.cli import CONFIGS

COMPOSER = loader.ConfigLoaderImpl
LIST = loader.create_defaults_list
COMPOSITION = COMPOSER._compose_config_from_defaults_list
Plugins.instance()  # registers what reads files
FILES = SourcesRegistry.instance().resolve("file")
FILE = FILES.load_config
KNOWN: dict[Any, Any] = {}


def sources(repo: Any) -> str | None:
    """Where a composition looks; None if that may change between tests: in other folders than conf/."""
    found = [(source.provider, source.scheme(), source.path) for source in repo.get_sources()]
    return None if any(scheme == "file" and path != str(CONFIGS) for _, scheme, path in found) else repr(found)


def defaults_list(repo: Any, config_name: str | None, overrides_list: Any, **how: bool) -> DefaultsList:
    """The files that are merged: the same for equal choices of groups."""
    where = sources(repo)
    if where is None:
        return LIST(repo, config_name, overrides_list, **how)
    asked = Overrides(repo, overrides_list)
    chosen = repr((asked.override_choices, asked.append_group_defaults, asked.deletions))
    key = (where, config_name, chosen, *how.values())
    if key not in KNOWN:
        KNOWN[key] = LIST(repo, config_name, overrides_list, **how)
    found = copy.copy(KNOWN[key])
    found.config_overrides = asked.config_overrides
    return found


def composition(composer: Any, defaults: Any, repo: Any) -> Any:
    """What files hold together, before the values of the command line."""
    key = (sources(repo), repr(defaults))
    if key[0] is None:
        return COMPOSITION(composer, defaults, repo)
    if key not in KNOWN:
        KNOWN[key] = pickle.dumps(COMPOSITION(composer, defaults, repo))
    return pickle.loads(KNOWN[key])


def file(source: Any, config_path: str) -> Any:
    """What one file of conf/ holds."""
    if source.path != str(CONFIGS):
        return FILE(source, config_path)
    if config_path not in KNOWN:
        KNOWN[config_path] = pickle.dumps(FILE(source, config_path))
    return pickle.loads(KNOWN[config_path])


def repository(made: Any, delegate: Any) -> None:
    """hydra copies all that it looks in here, with every schema that is known, and only replaces the list of it."""
    made.delegate = copy.copy(delegate)
    made.cache = {}


def metadata(of: Metadata, memo: Any) -> Metadata:
    """A copy of what is known of one value: names, types, and flags."""
    made = copy.copy(of)
    made.flags = None if of.flags is None else dict(of.flags)
    made.resolver_cache = (
        defaultdict(dict, copy.deepcopy(of.resolver_cache, memo)) if of.resolver_cache else defaultdict(dict)
    )
    return made


@contextmanager
def composed_once() -> Iterator[None]:
    """Inside, hydra merges no files of conf/ that it has merged before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "create_defaults_list", defaults_list)
        patch.setattr(COMPOSER, "_compose_config_from_defaults_list", composition)
        patch.setattr(FILES, "load_config", file)
        patch.setattr(CachingConfigRepository, "__init__", repository)
        patch.setattr(Metadata, "__deepcopy__", metadata, raising=False)
        yield
