"""Images of any matrix size for networks that halve it a fixed number of times."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional


def on_padded(network: Callable[[Tensor], Tensor], image: Tensor, multiple: int) -> Tensor:
    """`network` applied to `image` (..., rows, columns) with a rim of zeros, and the rim cut off.

    The rim makes rows and columns multiples of `multiple`; air is zero in our units.
    """
    rows, columns = image.shape[-2:]
    pad_rows, pad_columns = -rows % multiple, -columns % multiple
    top, left = pad_rows // 2, pad_columns // 2
    padded = functional.pad(image, (left, pad_columns - left, top, pad_rows - top))
    return network(padded)[..., top : top + rows, left : left + columns]
