"""Lightning data modules: tables, images, mixtures, and where the files come from."""

from mdlm_cfg.training.data.base import DiffusionData
from mdlm_cfg.training.data.images import BinaryImageData
from mdlm_cfg.training.data.mixtures import BernoulliData
from mdlm_cfg.training.data.tables import TableData, TinyMnistData

__all__ = ["BernoulliData", "BinaryImageData", "DiffusionData", "TableData", "TinyMnistData"]
