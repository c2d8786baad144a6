"""Findings in the types that JSON has."""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass
from typing import Any

from torch import Tensor


def to_plain(value: Any) -> Any:
    """The same in types that JSON has: tensors as lists, numbers that are not finite as "inf" or "nan"."""
    if isinstance(value, Tensor):
        return to_plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
