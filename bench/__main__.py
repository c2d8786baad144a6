"""Run everything, print the table, and write bench.json and bench.md: `make bench` (python -m bench [FOLDER] [DEVICE]).

DEVICE is cuda or cpu; by default a GPU if there is one.
"""

from __future__ import annotations

import os
import platform
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import torch

from bench.decoders import decoder_figures
from bench.laws import law_figures
from bench.ratio import Figure, copy_rate, matmul_rate
from bench.sampling import sampling_figures
from bench.training import training_figures
from mdlm_cfg.app.errors import INTERRUPTED, Failure, exit_with
from mdlm_cfg.app.places import check_path
from mdlm_cfg.app.report_cache import files_of, written_together
from mdlm_cfg.reports.tables import write_json
from mdlm_cfg.support.atomic import remove_parts
from mdlm_cfg.support.errors import UserError, not_ours
from mdlm_cfg.support.folders import Made
from mdlm_cfg.support.machine import ask_the_driver_alone, keep_freed_memory

NUMBERS = "bench.json"
TABLE = "bench.md"
FILES = [NUMBERS, TABLE]
DEVICES = ("cpu", "cuda")
VERSIONS = ("torch", "scipy", "lightning", "mdlm-cfg")
WIDTH = 80  # columns of a terminal
COLUMNS = (10, 11, 10, 8, 5)  # of the numbers, at the right
HEADS = ("what", "against", "seconds", "the other", "ratio", "goal", "met")


def machine() -> dict[str, str | int | float]:
    """The machine that was measured."""
    name = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    flags = next((line for line in _cpu_lines() if line.startswith("flags")), "")
    wide = [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in flags]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "processor": name,
        "vector units": ", ".join(wide) or "unknown",
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def row(figure: Figure) -> list[str]:
    """A figure as text: with "x", how many times as fast; without, how many times the bound."""
    sign = "x" if figure.better == "higher" else ""
    goal = "" if figure.goal is None else f"{'>=' if sign else '<='} {figure.goal:g}"
    met = {None: "", True: "yes", False: "no"}[figure.is_met]
    times = (f"{value:.3g}" for value in (figure.seconds, figure.against))
    return [figure.what, figure.yardstick, *times, f"{figure.ratio:.2f}{sign}", goal, met]


def lines(figure: Figure, first: bool) -> list[str]:
    """A figure in `WIDTH` columns: what was timed, if it is the `first` of its kind, and below it a comparison."""
    what, against, *numbers = row(figure)
    head = textwrap.wrap(what, WIDTH) if first else []
    left = textwrap.wrap(against, WIDTH - sum(COLUMNS) - 2)
    ends = ["".join(f"{number:>{width}}" for number, width in zip(numbers, COLUMNS)), *[""] * (len(left) - 1)]
    return [*head, *(f"  {part:<{WIDTH - sum(COLUMNS) - 2}}{end}".rstrip() for part, end in zip(left, ends))]


def load() -> str:
    """How busy the machine is, as text: seconds mean little if it exceeds this program's own load."""
    if not hasattr(os, "getloadavg"):
        return "unknown"
    one, five, fifteen = os.getloadavg()
    return f"{one:.1f}, {five:.1f}, {fifteen:.1f} over 1, 5 and 15 minutes, on {os.cpu_count()} cores"


def markdown(figures: Sequence[Figure], about: dict[str, str | int | float]) -> str:
    """The table, below a description of the machine."""
    written = [", ".join(f"{name}: {value}" for name, value in about.items()), ""]
    written += ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    written += ["| " + " | ".join(row(figure)) + " |" for figure in figures]
    return "\n".join(written) + "\n"


def main(folder: Path, device: torch.device) -> None:
    """Measure on a device, print as it goes, and write the files."""
    # as the commands do
    keep_freed_memory()
    ask_the_driver_alone()
    about = {"load average before": load()} | machine()
    flops = matmul_rate(device)
    product = "float32 product" if device.type == "cpu" else "bfloat16 product"
    about |= {
        "device": device.type,
        "copy (GB/s)": round(copy_rate(device) / 1e9, 1),
        f"{product} (GFLOP/s)": round(flops / 1e9),
    }
    for name, value in about.items():
        print(f"{name}: {value}")
    print(f"{'':<{WIDTH - sum(COLUMNS)}}{''.join(f'{head:>{width}}' for head, width in zip(HEADS[2:], COLUMNS))}")
    figures: list[Figure] = []
    parts: Iterator[Figure] = chain(
        law_figures(device),
        decoder_figures(device),
        training_figures(flops, device),
        sampling_figures(device),
    )
    for figure in parts:
        first = not figures or figures[-1].what != figure.what
        figures.append(figure)
        print("\n".join(lines(figure, first)), flush=True)
    written = write(figures, about, folder)
    print(f"written: {', '.join(map(str, written))}")


def write(figures: Sequence[Figure], about: dict[str, str | int | float], folder: Path) -> list[Path]:
    """Write both files together, replacing only earlier ones; returns their paths."""
    plain = [asdict(figure) | {"ratio": figure.ratio, "met": figure.is_met} for figure in figures]
    with written_together(folder, NUMBERS, "bench", FILES) as part:
        write_json({"machine": about, "figures": plain}, part / NUMBERS)
        (part / TABLE).write_text(markdown(figures, about), encoding="utf-8")
    return [folder / name for name in FILES]


def command(arguments: Sequence[str]) -> None:
    """Run the command; an unusable folder is refused before anything is measured."""
    try:
        if len(arguments) > 2:
            raise UserError("give FOLDER and DEVICE at most")
        given, device = [*arguments, *["runs/bench", "cuda" if torch.cuda.is_available() else "cpu"][len(arguments) :]]
        if device not in DEVICES:
            raise UserError(f"{device!r} is not a device: give {' or '.join(DEVICES)}")
        check_path("FOLDER", given)
        made = Made()
        with made.taken_back():
            folder = made.folder(given)
            remove_parts(folder)
            for name in FILES:
                if os.path.lexists(folder / name) and name not in files_of(folder, NUMBERS):
                    raise not_ours(folder / name)
        with made.taken_back():
            main(folder, torch.device(device))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        exit_with([Failure("", error)])


if __name__ == "__main__":
    command(sys.argv[1:])
