from __future__ import annotations

import torch
from torch import Tensor, nn

from models.network_configs import ResidualUNetConfig
from models.optimizers import Optimizer, OptimizerName
from models.residual_unet import ResidualUNet


def network() -> nn.Module:
    torch.manual_seed(0)
    made = ResidualUNet(ResidualUNetConfig(channels=(16, 24), blocks=1))
    return made.to(memory_format=torch.channels_last)


def stepped(name: OptimizerName, steps: int = 1) -> tuple[nn.Module, dict[str, Tensor], Optimizer]:
    """A network after some steps down one loss, its first weights, and the optimizer."""
    made = network()
    before = {key: value.detach().clone() for key, value in made.named_parameters()}
    optimizer = Optimizer(made, name, 1e-2, 0.0, fused=False)
    for step in range(steps):
        follow(made, optimizer, step)
    return made, before, optimizer


def follow(made: nn.Module, optimizer: Optimizer, step: int) -> float:
    image = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(step % 3))
    made.zero_grad()
    loss = (made(image, torch.full((2,), 400.0)) - image.flip(-1)).square().mean()
    loss.backward()
    optimizer.step(1e-2)
    return float(loss.detach())


def test_a_step_of_muon_is_orthogonal_for_hidden_convolutions_only() -> None:
    made, before, _ = stepped("muon")
    moved = {key: value.detach() - before[key] for key, value in made.named_parameters()}
    hidden = moved["down.1.0.first.weight"].permute(0, 2, 3, 1).reshape(24, -1)
    values = torch.linalg.svdvals(hidden)
    # Newton and Schulz's five iterations leave singular values between 0.5 and 1.5 of one another.
    assert values.max() / values.min() < 4
    # AdamW's first step has the same size everywhere.
    assert (moved["head.weight"].abs() - 1e-2).abs().max() < 1e-3
    assert (moved["down.1.0.first.weight"].abs() - 1e-2).abs().max() > 5e-3
    assert all(bool(change.any()) for key, change in moved.items() if key.endswith("first.weight"))


def test_both_optimizers_take_steps_of_a_size_and_lower_the_loss() -> None:
    sizes = {}
    for name in ("adamw", "muon"):
        made, before, optimizer = stepped(name)
        change = made.get_parameter("down.1.0.first.weight") - before["down.1.0.first.weight"]
        sizes[name] = float(change.detach().square().mean().sqrt())
        losses = [follow(made, optimizer, step) for step in range(30)]
        assert losses[-1] < 0.7 * losses[0]
    assert 0.1 < sizes["muon"] / sizes["adamw"] < 1


def test_a_saved_optimizer_goes_on_as_if_nothing_had_happened() -> None:
    whole, _, _ = stepped("muon", 4)
    half, _, optimizer = stepped("muon", 2)
    resumed = network()
    resumed.load_state_dict(half.state_dict())
    fresh = Optimizer(resumed, "muon", 1e-2, 0.0, fused=False)
    fresh.load_state_dict(optimizer.state_dict())
    for step in (2, 3):
        follow(resumed, fresh, step)
    expected = dict(whole.named_parameters())
    assert all(torch.equal(value, expected[key]) for key, value in resumed.named_parameters())
