"""Lightning data modules: tables, images, mixtures, tokens and text, and where the files come from."""

from mdlm_cfg.training.data.base import DiffusionData
from mdlm_cfg.training.data.hidden_markov import HiddenMarkovData
from mdlm_cfg.training.data.images import BinaryImageData, ImageData
from mdlm_cfg.training.data.mixtures import BernoulliData
from mdlm_cfg.training.data.saved import SavedImages, SavedTokens, saved_dataset
from mdlm_cfg.training.data.sequences import TextData, TokenData
from mdlm_cfg.training.data.stored import StoredData
from mdlm_cfg.training.data.tables import TableData, TinyMnistData

__all__ = [
    "BernoulliData",
    "BinaryImageData",
    "DiffusionData",
    "HiddenMarkovData",
    "ImageData",
    "SavedImages",
    "SavedTokens",
    "StoredData",
    "TableData",
    "TextData",
    "TinyMnistData",
    "TokenData",
    "saved_dataset",
]
