"""The pretended GPU refuses and counts what a GPU would."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.gpu.pretended import GPU, Ledger, PretendedTensor, pretended_gpu


def test_values_are_the_cpus_and_the_device_is_not() -> None:
    values = torch.randn(5, 6, dtype=torch.complex64)
    with pretended_gpu():
        there = values.to(GPU)
        assert there.device == GPU
        assert isinstance(torch.fft.fft2(there.conj()), PretendedTensor)
        back = (torch.fft.fft2(there.conj()) @ there.mT).cpu()
    assert torch.equal(back, torch.fft.fft2(values.conj()) @ values.mT)


def test_a_mix_with_the_cpu_is_refused() -> None:
    with pretended_gpu():
        there = torch.zeros(3, device=GPU)
        assert (there + torch.tensor(1.0)).device == GPU  # a number may come from anywhere
        with pytest.raises(RuntimeError, match="mixes"):
            there + torch.zeros(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize(
    ("ask", "waits", "copies"),
    [
        (lambda there: float(there.sum()), 1, 0),
        (lambda there: bool((there > 0).any()), 1, 0),
        (lambda there: there.cpu(), 1, 0),
        (lambda there: there[there > 0], 1, 0),
        (lambda there: there + torch.tensor([1.0, 2.0, 3.0], device=GPU), 0, 1),
        (lambda there: there + torch.arange(3, device=GPU), 0, 0),
        (lambda there: torch.where(there > 0, there, 0.0).mul_(2).cumsum(0), 0, 0),
    ],
)
def test_what_a_gpu_would_wait_for_is_counted(
    ask: Callable[[torch.Tensor], object], waits: int, copies: int
) -> None:
    with pretended_gpu() as ledger:
        there = torch.ones(3, device=GPU)
        ledger.clear()
        ask(there)
        assert (ledger.waits.total(), ledger.copies.total()) == (waits, copies)


def test_the_ledger_forgets() -> None:
    ledger = Ledger()
    ledger.waits["here"] += 1
    ledger.clear()
    assert not ledger.waits
