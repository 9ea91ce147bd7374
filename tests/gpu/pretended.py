"""A pretended GPU: tensors that say they are on `cuda:0` and hold CPU values.

Inside `PretendedGpu()` whatever is made on or moved to `cuda` is such a tensor. Operators run on
the held values, so that results are the CPU's; one that mixes them with tensors of the CPU raises,
as a GPU would. What a GPU would have waited for is counted by the line of ours that asked:

* `waits`: values read by the host (`float`, `bool`, copies to the CPU, shapes that depend on data),
* `copies`: tensors brought from the host.

Below Python the tensors are on torch's `meta` device, which is what composite operators hand on.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch.utils import _device
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from models.replay import VARIABLE

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT / folder}/" for folder in ("recon", "models", "service", "benchmarks"))
GPU = torch.device("cuda", 0)
aten = torch.ops.aten
_SHAPED_BY_DATA = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.bincount.default,
    aten._unique2.default,
}
_INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}


class Ledger:
    """What was asked of the device, by line: `recon/solve.py:71`."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.operators = 0

    def clear(self) -> None:
        """Count from nothing."""
        self.waits.clear()
        self.copies.clear()
        self.operators = 0


class PretendedTensor(torch.Tensor):
    """On `cuda:0`, as far as anybody can see."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> PretendedTensor:
        with torch.inference_mode(False):
            made = torch.Tensor._make_wrapper_subclass(
                cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
                dtype=held.dtype, layout=held.layout, device="meta",
            )  # fmt: skip
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def is_contiguous(self, *args: Any, **kwargs: Any) -> bool:
        return self.held.is_contiguous(*args, **kwargs)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError("a pretended tensor outlived its GPU")


class _Mode(TorchDispatchMode):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # Lazy conjugates are bits of a tensor that operators below Python do not see.
        func = {aten._conj.default: aten.conj_physical.default,
                aten._neg_view.default: aten.neg.default}.get(func, func)  # fmt: skip
        if func not in _SHAPED_BY_DATA and _composite(func):
            with self:
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return self._run(func, args, dict(kwargs or {}))

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = [each for each in tree_flatten((args, kwargs))[0] if torch.is_tensor(each)]
        there = [each for each in tensors if isinstance(each, PretendedTensor)]
        here = [each for each in tensors if not isinstance(each, PretendedTensor)]
        if func in (aten._to_copy.default, aten.copy_.default):
            return self._copied(func, args, kwargs)
        if func is aten._local_scalar_dense.default:
            if there:
                self.ledger.waits[_line()] += 1
            return func(_held(args[0]))
        if func in _INDEXING and isinstance(args[0], PretendedTensor):
            here = self._indices(args[1], here)
        if func in _SHAPED_BY_DATA and there:
            self.ledger.waits[_line()] += 1
        if there and any(each.dim() for each in here):
            shapes = [tuple(each.shape) for each in here]
            raise RuntimeError(f"{func} mixes cuda:0 with the CPU's {shapes} at {_line()}")
        made_there = bool(there)
        if (asked := kwargs.get("device")) is not None:
            made_there = _is_gpu(asked)
            kwargs["device"] = "cpu" if made_there else asked
        result = func(*_held(args), **_held(kwargs))
        if not made_there:
            return result
        self.ledger.operators += 1
        known = {id(each.held): each for each in there}  # of operators in place

        def pretended(made: torch.Tensor) -> torch.Tensor:
            return known[id(made)] if id(made) in known else PretendedTensor(made)

        return tree_map_only(torch.Tensor, pretended, result)

    def _copied(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`_to_copy(source, ...)` or `copy_(target, source)`."""
        if func is aten.copy_.default:
            target, source = args[:2]
            to_gpu = isinstance(target, PretendedTensor)
        else:
            source, asked = args[0], kwargs.pop("device", None)
            to_gpu = isinstance(source, PretendedTensor) if asked is None else _is_gpu(asked)
        from_gpu = isinstance(source, PretendedTensor)
        if to_gpu and not from_gpu and source.dim():
            self.ledger.copies[_line()] += 1
        elif from_gpu and not to_gpu:
            self.ledger.waits[_line()] += 1
        elif to_gpu:
            self.ledger.operators += 1
        result = func(*_held(args), **kwargs)
        if func is aten.copy_.default:
            return args[0]
        return PretendedTensor(result) if to_gpu else result

    def _indices(
        self, indices: list[torch.Tensor | None], here: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Count what indices cost; those of the CPU are copied, and allowed."""
        for index in indices:
            if index is None:
                continue
            if index.dtype == torch.bool:
                self.ledger.waits[_line()] += 1
            if not isinstance(index, PretendedTensor):
                self.ledger.copies[_line()] += 1
        return [each for each in here if not any(each is index for index in indices)]


@contextmanager
def pretended_gpu() -> Iterator[Ledger]:
    """Make `cuda:0` available, pretended, with 70 GiB of free memory."""
    ledger = Ledger()
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    patches = {
        "_lazy_init": nothing,
        "empty_cache": nothing,
        "synchronize": nothing,
        "device_count": lambda: 1,
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: False,
        "mem_get_info": lambda *_: (70 << 30, 80 << 30),
        "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0,
    }
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    no_graphs = mock.patch.dict(os.environ, {VARIABLE: "0"})
    with no_graphs, mock.patch.multiple(torch.cuda, **patches), _Mode(ledger):
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield ledger
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def _held(values: Any) -> Any:
    return tree_map_only(PretendedTensor, lambda each: each.held, values)


def _is_gpu(device: torch.device | str) -> bool:
    kind = torch.device(device).type
    chosen = _device.CURRENT_DEVICE
    meant = chosen is not None and chosen.type == "meta"  # `with torch.device("meta")`
    return kind == "cuda" or (kind == "meta" and not meant)


def _composite(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _line() -> str:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(OURS):
            return f"{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "a test"
