"""Objects made from plain settings that name them: {"_target_": "package.module.Name", argument: value, ...}.

A name is imported only if this package offers it or whoever runs the program gave it: settings read from a file
cannot make anything else.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.machinery
import importlib.util
import inspect
import sys
import sysconfig
import traceback
import types
import typing
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mdlm_cfg.support.annotations import annotations_of, parameters_of
from mdlm_cfg.support.errors import UserError, said_by

OWN: dict[str, Any] = {}  # objects imported by a user's names, except from libraries already loaded
CODE: dict[str, str] = {}  # digests of the modules imported with a user's names, as they were then, by name
DEFAULTS: dict[str, Any] = {}  # torch's default types, as set by user modules at import
SEEN: set[str] = set()  # modules loaded before, or whose digest is recorded
TARGET = "_target_"
PACKAGE = "mdlm_cfg"
FOLDER = Path(__file__).resolve().parent.parent
CALLED = "_called_by_name"  # an attribute of an error


class calling:
    """Marks an error of an object that a user named, if no code of this package raised it (`called_in`).

    An error that `ends_quietly` becomes a RuntimeError: the caller would take it for the end of its own data.

    Args:
        name: of the object called inside.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if error is not None and ends_quietly(error):
            raise RuntimeError(f"{self.name} raised {type(error).__name__}") from error
        if trace is None or not isinstance(error, Exception) or isinstance(error, UserError):
            return
        if not any(FOLDER in Path(frame.filename).resolve().parents for frame in traceback.extract_tb(trace.tb_next)):
            vars(error).setdefault(CALLED, self.name)


def ends_quietly(error: BaseException) -> bool:
    """Whether loops over data, or Lightning's training, take an error for the normal end."""
    # Lightning's own, recognised by name: importing it takes seconds
    return isinstance(error, StopIteration) or type(error).__name__ == "_TunerExitException"


def mark_calls(thing: Any, kind: type, name: str) -> None:
    """Mark the errors (`calling`) of every method of a class that an object overrides, such as its hooks."""
    for method, of_kind in inspect.getmembers_static(kind, inspect.isfunction):
        has_it = not method.startswith("_") and isinstance(thing, kind)
        if has_it and inspect.getattr_static(thing, method) is not of_kind:
            object.__setattr__(thing, method, _marked(getattr(thing, method), name))


def _marked(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with calling(name):
            return method(*args, **kwargs)

    return call


def called_in(error: BaseException) -> str | None:
    """The name that a user gave of the object that raised an error; None if it was not marked by `calling`."""
    return vars(error).get(CALLED)


def names_in(settings: Any) -> set[str]:
    """Every name under `_target_` in nested settings."""
    if isinstance(settings, Mapping):
        own = {str(settings[TARGET])} if settings.get(TARGET) is not None else set()
        return own.union(*(names_in(value) for value in settings.values()))
    if isinstance(settings, list | tuple):
        return set().union(*(names_in(item) for item in settings))
    return set()


def locate(name: str, what: str, offered: Collection[str], trusted: Collection[str] = ()) -> Callable[..., Any]:
    """The class or function of that name, imported if and only if it may be.

    Args:
        name: "package.module.Name".
        what: its role, such as "net", for messages.
        offered: modules of this package whose public names may be used; "mdlm_cfg.targets.*" is every module in it.
        trusted: names that whoever runs the program gave.

    Raises:
        UserError: a name that is neither offered nor trusted (nothing is imported then), or that does not exist.
    """
    module_name, _, attribute = name.rpartition(".")
    if name not in trusted and not (_is_offered(module_name, offered) and attribute.isidentifier()):
        known = ", ".join(offered)
        raise UserError(
            f"{what} cannot be made by {name}: only by functions and classes of {known}, or by those that you name "
            "yourself"
        )
    found = _imported(name, what)
    is_offered = is_ours(found) and not attribute.startswith("_")
    if not callable(found) or (name not in trusted and not is_offered):
        raise UserError(f"{what} cannot be made by {name}: there is no class or function {attribute} in {module_name}")
    return found


def is_ours(thing: Any) -> bool:
    """Whether a class or function belongs to this package, and not to its user or another library."""
    return str(getattr(thing, "__module__", "")).startswith(f"{PACKAGE}.")


def thing_named(name: str, what: str) -> Any:
    """The object of any sort that a name stands for; only for names given by whoever runs the program.

    Raises:
        UserError: a module that cannot be imported, or has nothing of that name.
    """
    found = _imported(name, what)
    if found is None:
        raise UserError(f"{what} cannot be {name}: nothing has that name; is it spelt package.module.NAME?")
    return found


def _imported(name: str, what: str) -> Any:
    """The attribute of a module; None if the module has no such attribute."""
    module_name, _, attribute = name.rpartition(".")
    were_here = set(sys.modules)
    torch = sys.modules.get("torch")
    dtype = None if torch is None else torch.get_default_dtype()
    if not module_name.strip("."):
        raise UserError(f"{what} cannot be made by {name}: it names no module; write package.module.{name.strip('.')}")
    try:
        module = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # such as SystemExit
        if _is_not_there(module_name, error):
            raise UserError(f"{what} cannot be made by {name}: {error}; is its folder on PYTHONPATH?") from error
        if name.split(".")[0] == PACKAGE:
            raise
        raise UserError(f"{what} cannot be made by {name}: {said_by(error)}; see {_place_of(error)}") from error
    if torch is not None:  # each job of a sweep gets it as if it had imported the module itself
        if torch.get_default_dtype() is not dtype:
            DEFAULTS[module_name] = torch.get_default_dtype()
        torch.set_default_dtype(DEFAULTS.get(module_name, dtype))
    found = getattr(module, attribute, None)
    if name.split(".")[0] not in were_here:
        SEEN.update(() if OWN else were_here)
        OWN[name] = found
    SEEN.difference_update(sys.modules.keys() - were_here)
    code_of_the_user()
    return found


def _is_not_there(module_name: str, error: BaseException) -> bool:
    """Whether an import failed because no such module exists or can exist, and not inside the module."""
    if isinstance(error, ModuleNotFoundError):
        return f"{module_name}.".startswith(f"{error.name}.")
    outside = (__file__, importlib.__file__)
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError | TypeError) and all(
        frame.filename in outside or frame.filename.startswith("<frozen") for frame in frames
    )


def code_of_the_user() -> dict[str, str]:
    """Digests of the modules that a user named, and of the user's own modules that these imported so far, by name.

    They are of the files at the first call of this function after an import.
    """
    if not OWN:
        return {}
    tops = {name.split(".")[0] for name in OWN}
    libraries = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
    for name in sys.modules.keys() - SEEN:
        SEEN.add(name)
        path = Path(getattr(sys.modules.get(name), "__file__", None) or "").resolve()
        is_own = name.split(".")[0] in tops or not any(path.is_relative_to(folder) for folder in libraries)
        if is_own and path.is_file() and not path.is_relative_to(FOLDER):
            CODE[name] = _digest(path)
    return dict(CODE)


def changed_code(then: Mapping[str, str]) -> list[str]:
    """The modules whose code has changed; modules that cannot be found do not count. Nothing is imported.

    Args:
        then: as `code_of_the_user` returned.
    """
    return [name for name, digest in then.items() if (CODE.get(name) or _digest_of_module(name)) not in (digest, None)]


def _digest_of_module(name: str) -> str | None:
    """The digest of the file that a module would be imported from; None where there is none."""
    top, *rest = name.split(".")
    with suppress(ValueError):  # of a module without a specification
        spec = importlib.util.find_spec(top)
        for part in rest:
            top = f"{top}.{part}"
            spec = spec and importlib.machinery.PathFinder.find_spec(top, spec.submodule_search_locations)
        path = Path(spec.origin if spec and spec.origin else "")
        return _digest(path) if path.is_file() else None
    return None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _place_of(error: BaseException) -> str:
    """The file and line that raised an error, skipping Python's import machinery and code run from strings."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    return f"{frames[-1].filename}, line {frames[-1].lineno}"


def _is_offered(module_name: str, offered: Collection[str]) -> bool:
    parent, _, last = module_name.rpartition(".")
    return module_name in offered or (f"{parent}.*" in offered and last.isidentifier())


def make(
    settings: Mapping[str, Any], what: str, offered: Collection[str], trusted: Collection[str] = (), **filled: Any
) -> Any:
    """The object that the settings describe; nested settings are made first.

    Args:
        settings: `_target_` and the arguments, plain.
        what: its role; offered, trusted: see `locate`.
        filled: arguments that are not in the settings but follow from something else; the settings take precedence.

    Raises:
        UserError: no `_target_`, one that `locate` refuses, or arguments that it does not take.
    """
    if not isinstance(settings, Mapping):  # a list of settings may hold anything
        raise UserError(f"{what} = {settings} is not allowed: give settings with _target_=module.Name")
    if settings.get(TARGET) is None:
        raise UserError(f"{what}._target_ is missing: give {what}._target_=module.Name")
    maker = locate(str(settings[TARGET]), what, offered, trusted)
    given = {key: _made(value, f"{what}.{key}", offered, trusted) for key, value in settings.items() if key != TARGET}
    arguments = filled | given
    check_arguments(maker, what, arguments)
    with calling(str(settings[TARGET])):
        return maker(**arguments)


def _made(value: Any, what: str, offered: Collection[str], trusted: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        if TARGET in value:
            return make(value, what, offered, trusted)
        return {key: _made(item, f"{what}.{key}", offered, trusted) for key, item in value.items()}
    return [_made(item, what, offered, trusted) for item in value] if isinstance(value, list) else value


def check_arguments(maker: Callable[..., Any], what: str, arguments: Mapping[str, Any]) -> None:
    """Raise UserError unless a class or function takes these arguments, by name and by type."""
    from mdlm_cfg.support.arguments import check_setting  # torch takes seconds

    parameters = parameters_of(maker)
    name = getattr(maker, "__name__", str(maker))
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for key in arguments:
            if key not in parameters:
                raise UserError(
                    f"{what}.{key} is not an argument of {name}: it takes {', '.join(parameters) or 'none'}"
                )
    for key, parameter in parameters.items():
        plain = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if plain and parameter.default is inspect.Parameter.empty and key not in arguments:
            raise UserError(f"{what}.{key} is missing: {name} needs it")
    hints = _hints(maker)
    for key, value in arguments.items():
        check_setting(f"{what}.{key}", value, hints.get(key, Any))


def _hints(maker: Callable[..., Any]) -> dict[str, Any]:
    """The types of the arguments whose annotations can be read at run time."""
    if inspect.isclass(maker) and dataclasses.is_dataclass(maker):  # a base class resolves its types in its own module
        sources = [(base, vars(sys.modules[base.__module__])) for base in reversed(maker.__mro__)]
    else:
        function = inspect.unwrap(maker.__init__ if inspect.isclass(maker) else maker)
        sources = [(function, getattr(function, "__globals__", {}))]
    hints: dict[str, Any] = {}
    for source, scope in sources:
        for name, annotation in annotations_of(source).items():
            one = types.SimpleNamespace(__annotations__={name: annotation})
            with suppress(NameError, TypeError, AttributeError):
                hints |= typing.get_type_hints(one, scope)
    return hints
