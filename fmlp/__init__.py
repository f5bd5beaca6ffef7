"""Multilayer perceptrons as pure functions, in NumPy."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

import numpy as _numpy

from fmlp import (
    activations,
    autodiff,
    checkpoint,
    distributed,
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
from fmlp.batches import Batch, Batches, batches
from fmlp.checkpoint import Checkpoint, CheckpointError
from fmlp.descent import Step, descent
from fmlp.files import FileFormatError
from fmlp.jit import disable_jit, jit
from fmlp.layers import Layer
from fmlp.recording import primitive
from fmlp.serialization import load, load_metadata, load_with_metadata, save
from fmlp.summary import summary
from fmlp.threads import threads
from fmlp.training import EarlyStopping, FitResult, NonFiniteError, calibrate, evaluate, fit, on_plateau, predict

# Once a large block was freed, glibc's malloc keeps about that much freed memory. It returns the rest to the system,
# which must zero every page that the next training step touches: half of a step's time at batch 1024. The block here is
# never touched, so it costs nothing. MALLOC_TRIM_THRESHOLD_ in the environment still wins (docs/performance.md).
_numpy.empty(31 << 20, _numpy.uint8)

__version__ = "0.1.0"


if TYPE_CHECKING:
    from fmlp import data as data
    from fmlp import plotting as plotting
else:

    def __getattr__(name: str) -> _Any:
        """Import on first use the modules that are not needed to train."""
        if name in ("data", "estimators", "onnx", "plotting", "safetensors", "sklearn", "torch"):
            return _import_module(f"fmlp.{name}")
        raise AttributeError(f"module 'fmlp' has no attribute {name!r}")


__all__ = [
    "Batch",
    "Batches",
    "Checkpoint",
    "CheckpointError",
    "EarlyStopping",
    "FileFormatError",
    "FitResult",
    "Layer",
    "NonFiniteError",
    "Step",
    "activations",
    "autodiff",
    "batches",
    "calibrate",
    "check_vjp",
    "checkpoint",
    "descent",
    "differentiable",
    "disable_jit",
    "distributed",
    "evaluate",
    "files",
    "fit",
    "grad",
    "initializers",
    "jit",
    "layers",
    "load",
    "load_metadata",
    "load_with_metadata",
    "losses",
    "metrics",
    "objective",
    "on_plateau",
    "optim",
    "predict",
    "primitive",
    "random",
    "save",
    "schedules",
    "serialization",
    "summary",
    "threads",
    "training",
    "tree",
    "value_and_grad",
    "vjp",
]
