"""The notebooks run, at a small size: every cell in order, as a reader would run them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = ("antibody", "guidance_in_2d", "guided_mnist", "network_or_guidance", "what_does_my_decoder_sample")
EXTRAS = {"antibody": "antiberty"}  # a notebook that needs a package of an extra, and minutes
SMALL: dict[str, dict[str, Any]] = {
    "antibody": {
        "pair": [47],
        "num_positions": 2,
        "gammas": [0.0, 5.0],
        "gamma": 5.0,
        "many_gamma": 5.0,
        "moves": [0, 2],
        "num_samples": 2,
        "num_steps": 1,
        "num_moves": 1,
    },
    "guidance_in_2d": {"strengths": [0.0, 2.0], "num_strengths": 3, "num_times": 5},
    "network_or_guidance": {
        "strengths": [0.0, 1.0, 2.0],
        "checkpoints": [1, 2],
        "width": 8,
        "num_samples": 100,
    },
    "guided_mnist": {
        "num_batches": 2,
        "width": 8,
        "depth": 1,
        "strengths": [0.0, 1.0],
        "num_columns": 1,
        "num_samples": 4,
        "num_steps": 4,
    },
    "what_does_my_decoder_sample": {
        "name": "toy_2d_overlap",
        "events": [1, 2],
        "gammas": [0.1],
        "thresholds": [0.9],
        "moves": [0, 2],
    },
}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


@pytest.fixture
def folder_of_images(tmp_path: Path) -> str:
    """Two classes of 4 x 4 images: ink on the left, ink on the right."""
    generator = np.random.default_rng(0)
    for k, name in enumerate(("left", "right")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            image = generator.integers(0, 255, (4, 4), dtype=np.uint8)
            image[:, 2 * k : 2 * k + 2] = 255
            Image.fromarray(image).save(tmp_path / "images" / name / f"{i}.png")
    return str(tmp_path / "images")


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def is_parameters(cell: Any) -> bool:
    return "parameters" in cell.metadata.get("tags", ())


def needs(name: str) -> None:
    """Skip a notebook whose extra is not installed."""
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])


def small_values(name: str, images: str) -> dict[str, Any]:
    return SMALL[name] | ({"dataset": images} if name == "guided_mnist" else {})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in EXTRAS else name for name in NAMES]
)
def test_a_notebook_runs_at_a_small_size(name: str, folder_of_images: str) -> None:
    needs(name)
    space: dict[str, Any] = {}
    for cell in read(name).cells:
        if cell.cell_type != "code":
            continue
        exec(compile(cell.source, f"{name}.ipynb", "exec"), space)
        if is_parameters(cell):
            small = small_values(name, folder_of_images)
            assert small.keys() <= space.keys()
            space |= small
    assert pyplot.get_fignums()


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_was_run_from_top_to_bottom(name: str) -> None:
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = [output.output_type for cell in code for output in cell.outputs]
    assert "error" not in kinds and kinds.count("display_data") >= 3
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 300_000


def test_every_notebook_is_tested() -> None:
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_its_pictures_in_a_kernel(
    name: str, folder_of_images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    needs(name)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel has its own: a picture goes into the notebook
    notebook = read(name)
    for cell in notebook.cells:
        if is_parameters(cell):
            small = small_values(name, folder_of_images)
            cell.source = "\n".join([cell.source, *(f"{k} = {v!r}" for k, v in small.items())])
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}, timeout=120).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
