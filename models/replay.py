"""A network's kernels recorded once per shape and replayed: what a GPU saves is being launched.

A step of a small network is hundreds of launches of a few microseconds each; a CUDA graph is one.
What is recorded works on memory of its own, so that images are copied in and out. Networks whose
kernels depend on values cannot be recorded and run as before.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

VARIABLE = "MRI_POSTERIOR_CUDA_GRAPHS"
"""In the environment, 0 leaves graphs out, for diagnosis."""
_SEEN_BEFORE = 2
"""Calls of a shape before it is recorded: one that is rare is not worth it."""
_MOST = 8
"""Recordings that are kept of a network; each holds the memory of its activations."""

Function = Callable[[Tensor, Tensor], Tensor]


class Recording(NamedTuple):
    """What is replayed: `replay` computes `output` from what lies in the inputs."""

    images: Tensor
    levels: Tensor
    output: Tensor
    replay: Callable[[], None]


Recorder = Callable[[Function, Tensor, Tensor], Recording]


def record_graph(function: Function, images: Tensor, levels: Tensor) -> Recording:
    """A CUDA graph of a function, after a run that lets libraries choose their kernels."""
    images, levels = images.clone(), levels.clone()
    beside = torch.cuda.Stream(images.device)
    beside.wait_stream(torch.cuda.current_stream(images.device))
    with torch.cuda.stream(beside):
        function(images, levels)
    torch.cuda.current_stream(images.device).wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the device meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = function(images, levels)
    return Recording(images, levels, output, graph.replay)


def wanted(device: torch.device) -> bool:
    """Whether networks on this device are recorded."""
    return device.type == "cuda" and os.environ.get(VARIABLE, "1") != "0"


class Replayed:
    """A function of images and levels, recorded for every shape that comes more than twice."""

    def __init__(self, function: Function, record: Recorder = record_graph) -> None:
        self._function = function
        self._record = record
        self._calls: dict[torch.Size, int] = {}
        self._recordings: OrderedDict[torch.Size, Recording] = OrderedDict()
        self._lock = threading.Lock()
        self._possible = True

    def __call__(self, images: Tensor, levels: Tensor) -> Tensor:
        """As the function. Raises torch.OutOfMemoryError as it does."""
        with self._lock:  # inputs and output of a recording are there once
            recording = self._recording(images, levels)
            if recording is None:
                return self._function(images, levels)
            recording.images.copy_(images)
            recording.levels.copy_(levels)
            recording.replay()
            return recording.output.clone()

    def _recording(self, images: Tensor, levels: Tensor) -> Recording | None:
        shape = images.shape
        if shape in self._recordings:
            self._recordings.move_to_end(shape)
            return self._recordings[shape]
        self._calls[shape] = self._calls.get(shape, 0) + 1
        if not self._possible or self._calls[shape] <= _SEEN_BEFORE:
            return None
        try:
            found = self._record(self._function, images, levels)
        except torch.OutOfMemoryError:
            self._recordings.clear()  # the function alone may still fit
            self._possible = False
            return None
        except RuntimeError as error:
            self._possible = False
            warnings.warn(f"the network runs without CUDA graphs: {error}", stacklevel=2)
            return None
        self._recordings[shape] = found
        while len(self._recordings) > _MOST:
            self._recordings.popitem(last=False)
        return found
