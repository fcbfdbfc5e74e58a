"""One step of training; on a GPU it is captured once as a CUDA graph and replayed."""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.apps.forecasting.spacetime import SpaceTime
from farfield.apps.forecasting.windows import Batch
from farfield.apps.training.device import autocast_for

WARMUPS = 3


class GraphedStep:
    """Loss, gradients, clipping and update of one batch.

    A step is some two hundred small kernels: launched one by one they cost more than they compute. A batch of another
    size than the first, the last of an epoch, runs as it is.

    Args:
        net: In training mode, on the device.
        optimiser: Capturable on a GPU; rates are tensors.
        weights: Of the loss's terms.
        precision: fp32, bf16 or fp16.
        device: Of both.
        clip: Greatest norm of the gradient.
    """

    def __init__(
        self,
        net: SpaceTime,
        optimiser: torch.optim.Optimizer,
        weights: tuple[float, float, float],
        precision: str,
        device: torch.device,
        clip: float = 1.0,
    ) -> None:
        self.net, self.optimiser, self.weights, self.clip = net, optimiser, weights, clip
        self.precision, self.device = precision, device
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: Batch | None = None
        self.loss: Tensor | None = None
        self.seen = 0

    def __call__(self, batch: Batch) -> Tensor:
        """The loss before the update, a tensor on the device."""
        if self.device.type != "cuda":
            return self._eager(batch)
        if self.graph is None:
            self.seen += 1
            if self.seen <= WARMUPS:
                # What a capture must not meet for the first time runs aside, as torch asks for.
                side: torch.cuda.Stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    loss = self._eager(batch)
                torch.cuda.current_stream().wait_stream(side)
                return loss
            self._capture(batch)
        assert self.inputs is not None
        assert self.graph is not None
        assert self.loss is not None
        if batch.y.shape != self.inputs.y.shape:
            return self._eager(batch)
        for held, value in zip(self.inputs, batch, strict=True):
            if held is not None and value is not None:
                held.copy_(value)
        self.graph.replay()
        return self.loss.clone()

    def _capture(self, batch: Batch) -> None:
        self.inputs = Batch._make(None if value is None else value.clone() for value in batch)
        self.optimiser.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.loss = self._eager(self.inputs)
        self.graph = graph

    def _eager(self, batch: Batch) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        with autocast_for(self.precision, self.device):
            loss = self.net.loss(batch, self.weights)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip, foreach=True)
        self.optimiser.step()
        return loss.detach()
