"""PyTorch, eager, with fused Adam."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks import cases

FIRST_PREDICTION = """
import sys
import numpy as np
import torch
from torch.nn import ELU, Linear, Sequential

net = Sequential(Linear(128, 120), ELU(), Linear(120, 112), Linear(112, 96), ELU(), Linear(96, 64), ELU(),
                 Linear(64, 48), ELU(), Linear(48, 32), ELU(), Linear(32, 24), ELU(), Linear(24, 16), ELU(),
                 Linear(16, 10))
net.load_state_dict(torch.load(sys.argv[1], weights_only=True))
with torch.inference_mode():
    net(torch.from_numpy(np.ones((1, 128), np.float32))).numpy()
"""
ACTIVATIONS = {"elu": nn.ELU, "relu": nn.ReLU}


class Network:
    """The case's network as `nn.Sequential`."""

    def __init__(self, case: cases.Case, threads: int) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.case = case
        self.loss = nn.MSELoss() if case.loss == "mse" else nn.CrossEntropyLoss()
        self.reset()

    def reset(self) -> None:
        """Go back to the first parameters and a new optimizer."""
        stack: list[nn.Module] = []
        for (w, b), (fan_in, fan_out, activation, rate) in zip(
            cases.parameters(self.case), self.case.layers(), strict=True
        ):
            linear = nn.Linear(fan_in, fan_out)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(w.T))
                linear.bias.copy_(torch.from_numpy(b))
            stack.append(linear)
            if activation:
                stack.append(ACTIVATIONS[activation]())
            if rate:
                stack.append(nn.Dropout(rate))
        self.net = nn.Sequential(*stack)
        self.optimizer = torch.optim.Adam(
            self.net.parameters(), cases.LEARNING_RATE, weight_decay=self.case.weight_decay, fused=True
        )

    def parameters(self) -> list[np.ndarray]:
        """Return w and b of each layer, in order."""
        return [p.detach().numpy().T for p in self.net.parameters()]

    def loss_and_grads(self, x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Work out the loss and the gradient of every w and b."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.net(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        return loss.item(), [p.grad.numpy().T for p in self.net.parameters()]

    def step(self, x: np.ndarray, y: np.ndarray) -> Callable[[int], None]:
        """Make training steps on one batch."""
        x, y = torch.from_numpy(x), torch.from_numpy(y)

        def run(k: int) -> None:
            for _ in range(k):
                self._train(x, y)

        return run

    def fit(self, x: np.ndarray, y: np.ndarray, batch: int) -> Callable[[int], None]:
        """Train for epochs, with shuffling and a history of the loss."""
        x, y = torch.from_numpy(x), torch.from_numpy(y)

        def run(k: int) -> None:
            history = []
            for _ in range(k):
                total = torch.zeros(())
                for rows in torch.randperm(len(x)).split(batch):
                    total += self._train(x[rows], y[rows])
                history.append(total.item() * batch / len(x))

        return run

    def predict(self, x: np.ndarray) -> Callable[[int], np.ndarray]:
        """Predict, from a NumPy array to a NumPy array."""
        self.net.eval()

        def run(k: int) -> np.ndarray:
            with torch.inference_mode():
                for _ in range(k):
                    y = self.net(torch.from_numpy(x)).numpy()
            return y

        return run

    def save(self, path: str) -> None:
        """Write what `FIRST_PREDICTION` reads."""
        torch.save(self.net.state_dict(), path)

    def _train(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.net(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
