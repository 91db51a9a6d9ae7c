"""Imported by the process that the tests of long jobs fork from: what every export has to load, loaded once."""

import torch
from vai_models import build

import quantwright.exporters.onnx  # noqa: F401
import quantwright.pipeline  # noqa: F401

torch.set_num_threads(1)  # a pool of threads would not survive the fork
torch.onnx.export(build("Chain"), (torch.zeros(2, 3, 12, 12),), dynamo=True, verbose=False)
