"""Heads of no contrast in particular: slices drawn from segmented volumes.

After Billot et al. 2023, "SynthSeg: Segmentation of brain MRI scans of any contrast and resolution
without retraining": a plane through a label map, warped, every structure with an intensity and a
texture of its own. What a network learns from them holds for contrasts that no file of images has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]

_SIDES = {
    41: 2,
    42: 3,
    43: 4,
    44: 5,
    46: 7,
    47: 8,
    49: 10,
    50: 11,
    51: 12,
    52: 13,
    53: 17,
    54: 18,
    57: 25,
    58: 26,
    60: 28,
    62: 30,
    137: 136,
    164: 163,
}
"""FreeSurfer's numbers of the right half of a brain, and those of the left that look the same."""
_ALIKE = ((2, 7, 16, 28, 85), (3, 8, 17, 18, 26), (10, 11, 12, 13), (4, 5, 14, 15, 24, 72))
"""Structures of like intensity: white matter, cortex, deep nuclei, fluid."""
_BONE = (502, 514, 515, 516)
_MIXED = (506, 507, 509, 511)
"""Drawn as one structure where muscle and fat alternate."""
_BRAIN_BELOW = 100
PIXELS_MM = (0.5, 2.2)
"""Sides of the pixels that are drawn."""
_DARK, _LEAST_FILLED, _TRIES = 0.02, 0.03, 5


class SyntheticHeads:
    """Segmented heads, isotropic at 1 mm, as a source of training images.

    Each volume is (x, y, z) of integers in FreeSurfer's numbering (0 is air; 500 and above lies
    outside the brain); other numbers are structures without kin.
    """

    def __init__(self, volumes: Sequence[NDArray[np.integer]]) -> None:
        self.labels = np.unique(np.concatenate([np.unique(volume) for volume in volumes]))
        self.volumes = [
            np.searchsorted(self.labels, volume).astype(np.uint8 if len(self.labels) < 256 else int)
            for volume in volumes
        ]
        self.air = int(np.searchsorted(self.labels, 0))

    def draw(self, side: int, random: np.random.Generator) -> Image:
        """A slice (side, side) float32; the 99th percentile of what is not air is one.

        Pixels are 0.5 to 2.2 mm, planes lie in any direction, slices are up to 5 mm thick.
        """
        image = self._slice(side, random)
        for _ in range(_TRIES):
            if (image > _DARK).mean() > _LEAST_FILLED:
                break
            image = self._slice(side, random)
        inside = image[image > _DARK]
        scale = float(np.percentile(inside, 99)) if inside.size else 1.0
        return (image / max(scale, 1e-3)).astype(np.float32)

    def volume(self, head: int, side: int, voxel_mm: float, random: np.random.Generator) -> Image:
        """A whole head (side, side, side) float32, scaled as `draw` scales; no lesion, no tilt.

        Axes are those of the label volume `head`: right to left, back to front, feet to head.
        """
        labels = self.volumes[head]
        finer = 2
        size = side * finer
        step = (np.arange(size) - (size - 1) / 2) * voxel_mm / finer
        look, centre = self._look(random), (np.array(labels.shape) - 1) / 2
        place = np.stack(np.meshgrid(*(step + middle for middle in centre), indexing="ij"))
        found = _nearest(labels, place, self.air)
        mixture = _smooth(size, random.uniform(10, 40), random, 3) + random.uniform(-0.7, 0.7)
        fine = ndimage.gaussian_filter(random.standard_normal((size,) * 3, np.float32), 1)
        value = np.where(mixture > 0, look["own"][found], look["other"][found])
        grain = look["fine"][found] * fine / fine.std()
        grain += look["coarse"][found] * _smooth(size, random.uniform(8, 40), random, 3)
        value = (value * (1 + grain).clip(0)).astype(np.float32)
        image = value.reshape(side, finer, side, finer, side, finer).mean((1, 3, 5))
        image = ndimage.gaussian_filter(image, 0.45)
        image = image * np.exp(0.2 * _smooth(side, side / 2, random, 3))
        inside = image[image > _DARK]
        scale = float(np.percentile(inside, 99)) if inside.size else 1.0
        return np.asarray(image / max(scale, 1e-3), np.float32)

    def _slice(self, side: int, random: np.random.Generator) -> Image:
        volume = self.volumes[int(random.integers(len(self.volumes)))]
        pixel = float(np.exp(random.uniform(*np.log(PIXELS_MM))))
        finer = 2 if pixel > 0.8 else 1
        look = self._look(random)
        place = _plane(volume.shape, side * finer, pixel / finer, random)
        normal = np.cross(place[:, 1, 0] - place[:, 0, 0], place[:, 0, 1] - place[:, 0, 0])
        normal /= np.linalg.norm(normal)
        thickness = random.uniform(0.5, 5) if random.random() < 0.5 else 0.5
        depths = (np.arange(3) - 1) * thickness / 3 if thickness > 1 else np.zeros(1)
        textures = _textures(side * finer, random)
        image: Image = np.zeros((side * finer,) * 2, np.float32)
        for depth in depths:
            labels = _nearest(volume, place + depth * normal[:, None, None], self.air)
            image += self._painted(labels, look, textures) / len(depths)
        if finer > 1:
            image = image.reshape(side, finer, side, finer).mean((1, 3))
        # The voxels of a label map are cubes; a scanner's point spread is not.
        image = ndimage.gaussian_filter(image, random.uniform(0.3, 0.6) * max(1.0, 1 / pixel))
        if random.random() < 0.7:
            image = image * np.exp(random.uniform(0.05, 0.4) * _smooth(side, side / 2, random))
        return image

    def _look(self, random: np.random.Generator) -> Mapping[str, NDArray[np.float32]]:
        """Intensity, second intensity, fine and coarse texture of every label."""
        count = len(self.labels)
        own = random.uniform(0.02, 1, count)
        for kin in _ALIKE:
            common = random.uniform(0.02, 1)
            for number in kin:
                own[self.labels == number] = common + 0.06 * random.standard_normal()
        if random.random() < 0.7:
            own[np.isin(self.labels, _BONE)] *= 0.15
        other = own.copy()
        mixed = np.isin(self.labels, _MIXED)
        other[mixed] = random.uniform(0.02, 1, int(mixed.sum()))
        for left, right in ((v, k) for k, v in _SIDES.items()):
            if left in self.labels and right in self.labels:
                own[self.labels == right] = own[self.labels == left]
                other[self.labels == right] = other[self.labels == left]
        own[self.air] = other[self.air] = 0
        fine, coarse = (random.uniform(0, most) * random.random(count) for most in (0.05, 0.15))
        fine[self.air] = coarse[self.air] = 0
        looks = {"own": own.clip(0), "other": other.clip(0), "fine": fine, "coarse": coarse}
        return {name: values.astype(np.float32) for name, values in looks.items()}

    def _painted(
        self, labels: NDArray[np.integer], look: Mapping[str, Image], textures: _Textures
    ) -> Image:
        value = np.where(textures.mixture > 0, look["own"][labels], look["other"][labels])
        brain = (self.labels > 0) & (self.labels < _BRAIN_BELOW)
        value = np.where((textures.lesion > 0) & brain[labels], textures.lesion_value, value)
        fine, coarse = look["fine"][labels], look["coarse"][labels]
        grain = 1 + fine * textures.fine + coarse * textures.coarse
        return np.asarray(value * grain.clip(0), np.float32)


class _Textures(NamedTuple):
    """Patterns of a slice (side, side), of std one where they are fields."""

    fine: Image
    coarse: Image
    mixture: Image
    """Muscle where it is positive, else fat."""
    lesion: Image
    """A lesion where it is positive."""
    lesion_value: float


def _plane(
    shape: tuple[int, ...], side: int, pixel: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """(3, side, side): where the pixels of a slice lie in a volume, in voxels, warped."""
    axes = np.roll(np.eye(3), int(random.integers(3)), axis=0)
    tilt = np.deg2rad(random.normal(0, 12, 3))
    axes = axes @ _rotation(tilt) * random.uniform(0.88, 1.14, (1, 3))
    step = (np.arange(side) - (side - 1) / 2) * pixel
    half = np.array(shape) / 2
    centre = half + axes[2] * random.uniform(-0.75, 0.75) * abs(axes[2] @ half)
    # Fine pixels do not cover a head: look somewhere in it.
    centre = centre + axes[:2].T @ (random.uniform(-0.5, 0.5, 2) * max(0.0, 150 - side * pixel))
    place = (
        centre[:, None, None]
        + axes[0][:, None, None] * step[None, :, None]
        + axes[1][:, None, None] * step[None, None, :]
    )
    strength = random.uniform(0, 3)
    for axis in range(3):
        place[axis] += strength * _smooth(side, side * random.uniform(0.08, 0.2), random)
    return place


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[first, first] = one[second, second] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    return turn


def _smooth(side: int, width: float, random: np.random.Generator, axes: int = 2) -> Image:
    """A smooth random field, (side,) * axes, std about one, correlated over `width` pixels."""
    coarse = max(4, round(2 * side / width))
    knots = ndimage.gaussian_filter(random.standard_normal((coarse,) * axes), 0.7, mode="wrap")
    knots /= knots.std() + 1e-6
    field = ndimage.zoom(
        knots.astype(np.float32), side / coarse, order=1, grid_mode=True, mode="nearest"
    )
    return np.asarray(field[(slice(side),) * axes], np.float32)


def _textures(side: int, random: np.random.Generator) -> _Textures:
    """Fine and coarse grain, the pattern of muscle and fat, and a lesion now and then."""
    fine = random.standard_normal((side, side), np.float32)
    fine = ndimage.gaussian_filter(fine, random.uniform(0.5, 1.5))
    fine /= fine.std()
    coarse = _smooth(side, random.uniform(8, 40), random)
    mixture = _smooth(side, random.uniform(10, 40), random) + random.uniform(-0.7, 0.7)
    lesion = np.full((side, side), -1, np.float32)
    if random.random() < 0.25:
        row, column = np.mgrid[:side, :side]
        middle = random.uniform(0.3, 0.7, 2) * side
        radius = np.exp(random.uniform(np.log(3), np.log(side / 8)))
        distance = np.hypot(row - middle[0], column - middle[1]) / radius
        lesion = (1 - distance + 0.4 * _smooth(side, radius, random)).astype(np.float32)
    return _Textures(fine, coarse, mixture, lesion, random.uniform(0, 1.2))


def _nearest(
    volume: NDArray[np.integer], place: NDArray[np.float64], air: int
) -> NDArray[np.integer]:
    """Labels at positions (3, rows, columns) in voxels; air outside."""
    index = np.rint(place).astype(np.int32)
    inside = np.ones(index.shape[1:], bool)
    for axis, size in enumerate(volume.shape):
        inside &= (index[axis] >= 0) & (index[axis] < size)
        np.clip(index[axis], 0, size - 1, out=index[axis])
    found = volume[index[0], index[1], index[2]]
    return np.where(inside, found, air)
