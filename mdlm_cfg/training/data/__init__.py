"""Lightning data modules: examples from files, samples of exactly known targets, and the download of data sets."""

from mdlm_cfg.training.data.base import DiffusionData
from mdlm_cfg.training.data.bernoulli_data import BernoulliData
from mdlm_cfg.training.data.example_data import ExampleData, text_file, token_file
from mdlm_cfg.training.data.huggingface import saved_dataset
from mdlm_cfg.training.data.images import ImageData
from mdlm_cfg.training.data.target_data import TargetData, TinyMnistData

# names in checkpoints of earlier versions
BinaryImageData = ImageData
TokenData = token_file
TextData = text_file
TableData = HiddenMarkovData = TargetData

__all__ = [
    "BernoulliData",
    "BinaryImageData",
    "DiffusionData",
    "ExampleData",
    "HiddenMarkovData",
    "ImageData",
    "TableData",
    "TargetData",
    "TextData",
    "TinyMnistData",
    "TokenData",
    "saved_dataset",
    "text_file",
    "token_file",
]
