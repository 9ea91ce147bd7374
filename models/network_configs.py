"""The shapes of all networks that a prior may be built from: data, which load no torch.

What is built of them is in the module of each architecture; `models.architectures` knows which.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DownBlockType = Literal["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
UpBlockType = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]
_Width = Annotated[int, Field(ge=1, le=2048)]
_SongWidth = Annotated[int, Field(ge=4, le=2048)]


class ResidualUNetConfig(BaseModel):
    """Shape of the network; the defaults make the 4 M-parameter one for CPUs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["residual-unet"] = "residual-unet"
    channels: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (64, 96, 128, 192), min_length=2, max_length=6
    )
    blocks: int = Field(2, ge=1, le=8, description="residual blocks per level, down and up")
    patch: int = Field(2, ge=1, le=4, description="side of the pixel blocks that become channels")
    reduction: int = Field(
        1, ge=1, le=8, description="only the central 1/n x 1/n of k-space, for much noise"
    )

    @property
    def multiple(self) -> int:
        """Rows and columns must be a multiple of this; `ResidualUNet` pads up to it."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


class NoiseExpertsConfig(BaseModel):
    """Two networks or three, and the noise levels, std per component, that divide them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["noise-experts"] = "noise-experts"
    fine: ResidualUNetConfig = ResidualUNetConfig()
    middle: ResidualUNetConfig | None = None
    coarse: ResidualUNetConfig
    middle_from: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="noise from which on the middle one is asked"
    )
    switch: float = Field(
        gt=0, allow_inf_nan=False, description="noise from which on the coarse one is asked"
    )

    @model_validator(mode="after")
    def _divided(self) -> Self:
        if (self.middle is None) != (self.middle_from is None):
            raise ValueError("middle and middle_from belong together")
        if self.middle_from is not None and self.middle_from >= self.switch:
            raise ValueError("middle_from must be below switch")
        return self


class UNetConfig(BaseModel):
    """Shape of a denoising U-Net; the defaults make a network of 5 M parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["monai-unet"] = "monai-unet"
    channels: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        (32, 64, 96, 128), min_length=2, max_length=6
    )
    res_blocks: int = Field(2, ge=1, le=4)
    norm_groups: int = Field(8, ge=1, le=64)
    patch: int = Field(2, ge=1, le=4)

    @property
    def multiple(self) -> int:
        """Rows and columns must be a multiple of this; `UNet` pads up to it."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


class DiffusersUNetConfig(BaseModel):
    """The options of `UNet2DModel` that its function depends on; names and defaults are its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["diffusers-unet2d"] = "diffusers-unet2d"
    in_channels: Literal[2]
    out_channels: Literal[2]
    block_out_channels: tuple[_Width, ...] = Field(min_length=1, max_length=8)
    down_block_types: tuple[DownBlockType, ...]
    up_block_types: tuple[UpBlockType, ...]
    layers_per_block: int = Field(2, ge=1, le=8)
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    mid_block_scale_factor: float = Field(1.0, gt=0, allow_inf_nan=False)
    add_attention: bool = True
    attention_head_dim: _Width | None = 8
    attn_norm_num_groups: _Width | None = None
    norm_num_groups: _Width = 32
    norm_eps: float = Field(1e-5, gt=0, lt=1)
    downsample_padding: Literal[0, 1] = 1
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    act_fn: Literal["silu", "swish"] = "silu"
    center_input_sample: Literal[False] = False
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Annotated[int, Field(ge=1, le=8192)] | None = None
    flip_sin_to_cos: bool = True
    freq_shift: float = Field(0, ge=0, lt=1.5)
    class_embed_type: None = None
    num_class_embeds: None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not (
            len(self.block_out_channels) == len(self.down_block_types) == len(self.up_block_types)
        ):
            raise ValueError("block_out_channels, down_block_types and up_block_types must match")
        if self.block_out_channels[0] < 4:
            raise ValueError("the first of block_out_channels must be at least 4")
        return self

    @property
    def multiple(self) -> int:
        """Rows and columns must be a multiple of this; `DiffusersUNet` pads up to it."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @property
    def embedding(self) -> int:
        """Channels of the embedded timestep."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    def heads(self, channels: int) -> int:
        """Attention heads of a block. Raises ValueError when the channels cannot be divided."""
        width = self.attention_head_dim or channels
        if channels % width:
            raise ValueError(f"{channels} channels cannot be split into heads of {width}")
        return channels // width


class SongUNetConfig(BaseModel):
    """Shape of a DDPM++ (all defaults) or NCSN++ network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["edm-songunet"] = "edm-songunet"
    base_channels: _SongWidth = Field(description="channels of the first convolution")
    channels: tuple[_SongWidth, ...] = Field(
        min_length=1, max_length=8, description="of each level"
    )
    blocks: int = Field(4, ge=1, le=8, description="residual blocks of each level, on the way down")
    attention: tuple[bool, ...] = Field(description="which levels attend")
    noise_channels: _SongWidth = Field(
        multiple_of=2, description="channels of the noise level's sines and cosines"
    )
    embedding_channels: _SongWidth = Field(description="channels of the embedded noise level")
    embedding: Literal["positional", "fourier"] = "positional"
    encoder: Literal["standard", "residual"] = "standard"
    resample_filter: Literal["box", "binomial"] = Field(
        "box", description="[1, 1] or [1, 3, 3, 1], before normalisation"
    )

    @property
    def multiple(self) -> int:
        """Rows and columns must be a multiple of this; `SongUNet` pads up to it."""
        return int(2 ** (len(self.channels) - 1))


TrainableConfig = Annotated[
    ResidualUNetConfig | NoiseExpertsConfig | UNetConfig, Field(discriminator="architecture")
]
"""The architectures that `models.train` trains."""

NetworkConfig = Annotated[
    ResidualUNetConfig | NoiseExpertsConfig | UNetConfig | DiffusersUNetConfig | SongUNetConfig,
    Field(discriminator="architecture"),
]
"""Every architecture there is. All map (batch, 2, rows, columns) and a label (batch,) to images."""
