"""Multilayer perceptrons as pure functions, in NumPy."""

from fmlp import (
    activations,
    autodiff,
    files,
    initializers,
    layers,
    losses,
    metrics,
    optim,
    random,
    schedules,
    serialization,
    training,
    tree,
)
from fmlp.autodiff import check_vjp, differentiable, grad, objective, value_and_grad, vjp
from fmlp.files import FileFormatError
from fmlp.layers import Layer
from fmlp.serialization import load, load_metadata, save
from fmlp.summary import summary
from fmlp.training import EarlyStopping, FitResult, NonFiniteError, calibrate, evaluate, fit, on_plateau, predict

__version__ = "0.1.0"

__all__ = [
    "EarlyStopping",
    "FileFormatError",
    "FitResult",
    "Layer",
    "NonFiniteError",
    "activations",
    "autodiff",
    "calibrate",
    "check_vjp",
    "differentiable",
    "evaluate",
    "files",
    "fit",
    "grad",
    "initializers",
    "layers",
    "load",
    "load_metadata",
    "losses",
    "metrics",
    "objective",
    "on_plateau",
    "optim",
    "predict",
    "random",
    "save",
    "schedules",
    "serialization",
    "summary",
    "training",
    "tree",
    "value_and_grad",
    "vjp",
]
