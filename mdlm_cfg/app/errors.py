"""Error messages of commands: one sentence and exit code 2 for errors that a user can fix.

Everything else is a fault of this package, and keeps its traceback.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from itertools import pairwise
from pathlib import Path

import yaml
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError

from mdlm_cfg.app.commands import INTERRUPTED
from mdlm_cfg.app.overrides import comma_outside_brackets, why_unreadable
from mdlm_cfg.app.terminal import steady_streams
from mdlm_cfg.support.annotations import in_words
from mdlm_cfg.support.errors import MOST, UserError, cut, on_one_line, said_by, text_of
from mdlm_cfg.support.instantiate import OWN, called_in, ends_quietly
from mdlm_cfg.support.memory import is_lack_of_memory
from mdlm_cfg.support.schema import TYPES
from mdlm_cfg.support.signals import errors_of_interrupts, interrupts_alike

# exit codes
USER_ERROR = 2
FAULT = 1
PACKAGE = Path(__file__).resolve().parent.parent
KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}  # in omegaconf's words
IN_OUR_WORDS = {  # sentences of hydra and omegaconf
    r"Could not delete from config\. '(.*)' does not exist": r"~\1 leaves out nothing: \1 is not there or has no value",
    r"In '\w+': Could not load '(.*)/(.*)'": r"\1 has no option \2: \1=\2 lists the options",
    "Cannot merge DictConfig with ListConfig": "a mapping {KEY: VALUE} is given where none is allowed",
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # raised by a write that has no file name to report
PLUGINS = ("hydra_plugins", "core_plugins")  # folders of hydra's launchers and sweepers; the second has its own
MOST_SAID = 2_000  # characters of a message: other code may raise one of any length
MOST_TRACED = 20_000  # characters of a traceback, which ends in that message
OPEN = (errno.EMFILE, errno.ENFILE)  # whichever file was to be opened


@dataclass(frozen=True)
class Failure:
    """A job that ended with an error.

    Attributes:
        job: the overrides of one job of a sweep, such as "w=[1,2] seed=3"; empty for a single run.
        error: what ended it.
        hint: what may have been meant, such as "; did you mean trainer?".
    """

    job: str
    error: Exception
    hint: str = ""


@dataclass(frozen=True)
class Account:
    """The message of a failure: plain text, which can be stored in a file.

    Attributes:
        code: to exit with. said: one sentence. text: for the terminal, with a traceback where one is shown.
    """

    code: int
    said: str
    text: str


def account_of(failure: Failure, full: bool = False) -> Account:
    """The message of a failure.

    Args:
        full: with its traceback in every case (HYDRA_FULL_ERROR=1).
    """
    said = sentence(failure.error)
    where = f" in job {failure.job!r}" if failure.job else ""
    trace = cut("".join(traceback.format_exception(failure.error)), MOST_TRACED) if said is None or full else ""
    said = said or in_own_code(failure.error)
    said = said and cut(said, MOST_SAID)
    code = FAULT if said is None else USER_ERROR
    if said is None:
        said = f"{type(failure.error).__name__}; this is a fault of mdlm_cfg, please report it with the lines above"
    return Account(code, said, f"{trace}error{where}: {said}{failure.hint}")


def exit_with(failures: Sequence[Failure | Account], full: bool = False) -> None:
    """Print what ended each job and exit: code 2 if users can fix every failure, else 1; without failures do nothing.

    Args:
        full: see `account_of`.
    """
    if not failures:
        return
    accounts = [account_of(found, full) if isinstance(found, Failure) else found for found in failures]
    for account in dict.fromkeys(accounts):
        print(account.text, file=sys.stderr)
    sys.exit(FAULT if FAULT in {account.code for account in accounts} else USER_ERROR)


def interrupted() -> int:
    """Say that a command was interrupted, after the messages on what is kept; returns the exit code."""
    print("interrupted", file=sys.stderr)
    return INTERRUPTED


@contextmanager
def as_command() -> Iterator[None]:
    """Streams, interrupts and errors of a command, for its work inside: every command ends in the same way.

    Commands that hydra starts do more at their end (`mdlm_cfg.app.cli`).
    """
    with steady_streams(), interrupts_alike():
        try:
            with errors_of_interrupts():
                yield
        except KeyboardInterrupt:
            sys.exit(interrupted())
        except Exception as error:
            exit_with([Failure("", error)])


def sentence(error: BaseException) -> str | None:
    """A user's error in one line; None for any other error."""
    if isinstance(error, InstantiationException):
        return _instantiation(error)
    if isinstance(error, OverrideParseException):
        return why_unreadable(error.override, error.message)
    if isinstance(error, yaml.YAMLError):
        return _not_yaml(error)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key or error.key} is missing: give {error.full_key or error.key}=..."
    if isinstance(error, HydraException | OmegaConfBaseException):
        cause = error.__cause__
        if ambiguous := re.match(r"Ambiguous value for argument '(.*)'\n", text_of(error)):
            return comma_outside_brackets(ambiguous[1])
        if swept := re.match(r"Sweep parameters '(.*)' requires --multirun", text_of(error)):
            return f"{swept[1]} means several jobs: give it with -m, as in -m {swept[1]}"
        message = _hydra_line(text_of(error))
        wrong = re.match(r"Error merging override \+*(\w+)=(.*)", message)
        if wrong is not None and wrong[1] in TYPES and isinstance(cause, ValidationError):
            kind = TYPES[wrong[1]]
            return f"{wrong[1]} = {wrong[2]} must be {in_words(dict if is_dataclass(kind) else kind)}"
        if re.search(r"^In '(\w+)/.*Key '\1' not in ", message):
            message += "; settings of the whole command need # @package _global_ as the first line of that file"
        message += f": {_hydra_line(text_of(cause))}" if isinstance(cause, OmegaConfBaseException) else ""
        for said, meant in IN_OUR_WORDS.items():
            message = re.sub(said, meant, message)
        key = getattr(error, "full_key", None)
        return f"{key}: {message}" if isinstance(error, ValidationError) and key and key not in message else message
    # Lightning's own, recognised by name: importing it takes seconds
    if isinstance(error, UserError) or type(error).__name__ == "MisconfigurationException":
        return on_one_line(text_of(error)) or type(error).__name__
    if isinstance(error, RuntimeError) and text_of(error).startswith("Early stopping conditioned on metric"):
        return on_one_line(text_of(error))  # of Lightning, with the names of the metrics
    if type(error).__name__ == "UsageError" and type(error).__module__.startswith("wandb"):  # also slow to import
        return (
            f"wandb refused this: {on_one_line(text_of(error))}; see the logger's settings and the variables WANDB_..."
        )
    if isinstance(error, Warning):
        how = "by PYTHONWARNINGS, an option of Python or your own code"
        return f"a warning was turned into an error, {how} ({said_by(error)})"
    return _of_the_machine(error) or _of_the_environment(error) or _of_a_launcher(error)


def _of_a_launcher(error: BaseException) -> str | None:
    """The message of a launcher or sweeper, a plugin of hydra, such as of a cluster that is not available."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE):  # a job in this process
            return None
        if inside := next((after for name, after in pairwise(path.parts) if name in PLUGINS), None):
            which = Path(inside).stem.removeprefix("hydra_").replace("_", " ")
            said = said_by(error) if text_of(error) else f"{type(error).__name__}: {frame.line}"  # of an assertion
            return f"the {which} of this sweep has failed: {said}"
    return None


def _of_the_environment(error: BaseException) -> str | None:
    """A library's error about an environment variable: its code names the variable, and the message its value.

    The name is in the code itself, or in a constant of its module.
    """
    if not isinstance(error, ValueError):
        return None
    names: set[str] = set()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        own = frame.f_code
        names |= {*_texts(own.co_consts), *_texts(tuple(frame.f_globals.get(name) for name in own.co_names))}
    text = text_of(error)
    for name in sorted(names & os.environ.keys()):
        value = os.environ[name]
        is_word = value and not value.isdecimal() and re.search(rf": {re.escape(value)}\b", text)
        if value and (repr(value) in text or is_word):
            return f"the environment variable {name}={value} is not allowed: {cut(on_one_line(text), MOST)}"
    return None


def _texts(constants: Iterable[object]) -> Iterator[str]:
    """The strings among the constants of a code object, also those in tuples."""
    for value in constants:
        if isinstance(value, tuple | frozenset):
            yield from _texts(value)
        elif isinstance(value, str):
            yield value


def _of_the_machine(error: BaseException) -> str | None:
    """The message for an error of the disk, of another process or of memory; None for any other error."""
    if isinstance(error, FileNotFoundError) and error.errno == errno.ENOENT and error.filename is None:  # of os.getcwd
        return "the working directory no longer exists: change to another one"
    if isinstance(error, OSError) and error.errno in OPEN:
        return "there are too many open files: raise the limit (ulimit -n), or end other programs"
    if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
        where = error.filename or "the disk"
        said = f"{where} cannot be used: {error.strerror or error}; choose another place, or repair this one"
        place = _place_in_own_code(error)
        return said if place is None else f"{said} (raised by your own code: {place})"
    if isinstance(error, RuntimeError) and text_of(error).startswith("Symlink loop from "):  # of Path.resolve
        return f"{text_of(error).removeprefix('Symlink loop from ')} cannot be used: this link leads back to itself"
    if _is_of_another_process(error):
        said = on_one_line(text_of(error))[:200]
        return (
            f"another process of this command has ended or cannot be reached ({said}): see its "
            "messages; ckpt_path=auto resumes training from the last checkpoint"
        )
    if any(kind.__name__ == "BackendCompilerFailed" for kind in type(error).__mro__):  # torch's: slow to import
        said = on_one_line(text_of(error)).partition(" Set TORCHDYNAMO_VERBOSE")[0]
        return (
            f"compile=true: torch.compile failed ({said}): install a C++ compiler that it can use, or leave compile out"
        )
    if is_lack_of_memory(error):
        smaller = "a smaller batch_size, network or data, fewer samples"
        return f"there is not enough memory: use {smaller}, or a larger machine"
    return None


def in_own_code(error: BaseException) -> str | None:
    """The place of an error in code that the command line names, or its name; None if it came from elsewhere.

    A call whose arguments do not fit a function counts as an error in that function. A StopIteration that leaves a
    generator is found in the RuntimeError that Python makes of it (`calling` of others, too).
    """
    cause = error.__cause__
    if cause is not None and ends_quietly(cause):
        error = cause
    said = said_by(error)
    call = re.match(r"([\w.]+)\(\) (?:takes|missing|got) ", text_of(error)) if isinstance(error, TypeError) else None
    for name, found in OWN.items():
        if call is not None and getattr(found, "__name__", None) == call[1].split(".")[0]:
            line = inspect.getsourcelines(found)[1]
            return f"{said}; {name} is your own code: {inspect.getsourcefile(found)}, line {line}"
    place = _place_in_own_code(error)
    if place is not None:
        return f"{said}; it was raised by your own code: {place}"
    called = called_in(error)
    if called is not None:
        return f"{said}; it was raised by {called}, which a setting names"
    return _device_of_own_code()


def _place_in_own_code(error: BaseException) -> str | None:
    """The file and the line of the user's own code where an error was raised; None if it came from elsewhere."""
    places = own_places()
    libraries = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith("<"):  # such as exit(), or code that is made of text
            continue
        path = Path(frame.filename).resolve()
        if any(path.is_relative_to(place) for place in places):
            return f"{path}, line {frame.lineno} ({frame.name})"
        if path.is_relative_to(PACKAGE) or not any(path.is_relative_to(folder) for folder in libraries):
            return None
    return None


def _device_of_own_code() -> str | None:
    """The message for own code that has changed the device on which torch makes all tensors, ours included."""
    torch = sys.modules.get("torch")
    if not OWN or torch is None or torch.get_default_device().type == "cpu":
        return None
    device = torch.get_default_device()
    return f"your own code has called torch.set_default_device({str(device)!r}), which moves all tensors: leave it out"


@contextmanager
def no_exit_of_own_code() -> Iterator[None]:
    """Code that the command line names cannot end a command as if its work were done, nor a whole sweep with one job.

    Raises:
        UserError: in place of a SystemExit, or another error that is not an Exception (`asyncio.CancelledError`).
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        if (said := in_own_code(error)) is None:
            raise
        raise UserError(f"{said}; it ends the command before its work is done") from error


def own_places() -> list[Path]:
    """The files of the objects that the command line names, or their packages' folders."""
    found = []
    for name in OWN:
        path = Path(getattr(sys.modules.get(name.split(".")[0]), "__file__", None) or name).resolve()
        found.append(path.parent if path.name == "__init__.py" else path)
    return found


def _is_of_another_process(error: BaseException) -> bool:
    """Whether torch reports that one of several processes no longer answers."""
    name = type(error).__name__
    text = text_of(error)
    is_of_gloo = isinstance(error, RuntimeError) and "gloo" in text and ("by peer" in text or "Timed out" in text)
    return is_of_gloo or name in ("DistBackendError", "DistNetworkError")


def _not_yaml(error: yaml.YAMLError) -> str:
    """The YAML file that cannot be read, and the line."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # of a character that is not allowed
        return f"{getattr(error, 'name', 'a file')} is not YAML: {on_one_line(text_of(error))}"
    problem = getattr(error, "problem", None) or getattr(error, "context", None)
    return f"{mark.name}, line {mark.line + 1}, is not YAML: {on_one_line(str(problem))}"


def _instantiation(error: InstantiationException) -> str:
    """The message for an object of hydra's, such as a launcher, that could not be made: its key, and the error."""
    where = re.search(r"full_key: (\S+)", text_of(error))
    cause = error.__cause__
    said = _hydra_line(text_of(error)) if cause is None else said_by(cause)
    return f"{where[1] if where else 'the configuration'}: {said}"


def _hydra_line(text: str) -> str:
    """Hydra's several lines as one: its search path and key listings are left out, lists of options joined."""
    text = re.split(
        r"\n+(?:Config search path|To append to your config|See https:|\s*full_key:|\s*object_type=)", text
    )[0]
    for kind, words in KINDS.items():
        text = re.sub(rf"Value ('.*') of type '\w+' could not be converted to {kind}", rf"\1 must be {words}", text)
    text = re.sub(r"\n\n(Available options)", r"; \1", text.strip())
    text = re.sub(r"\n\t", ", ", re.sub(r":\n\t", ": ", text))
    return on_one_line(text).rstrip(".")
