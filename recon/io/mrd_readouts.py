"""Readouts of an ISMRMRD (MRD version 1) acquisition: their header, bit for bit, and their samples.

A file and a scanner's stream carry the same 340-byte header before every readout.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError

_COUNTERS = (
    "kspace_encode_step_1",
    "kspace_encode_step_2",
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
    "segment",
)
HEAD = np.dtype(
    [
        ("version", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("scan_counter", "<u4"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("number_of_samples", "<u2"),
        ("available_channels", "<u2"),
        ("active_channels", "<u2"),
        ("channel_mask", "<u8", (16,)),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        ("patient_table_position", "<f4", (3,)),
        ("idx", [*((name, "<u2") for name in _COUNTERS), ("user", "<u2", (8,))]),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
    ]
)
"""AcquisitionHeader of the standard, packed: 340 bytes."""

NOISE = 19
CALIBRATION = 20
CALIBRATION_AND_IMAGING = 21
REVERSE = 22
NOT_IMAGING = (23, 24, 26, 27, 28, 30, 31)
"""Navigator, phase correction, feedback (two kinds), dummy and phase stabilisation readouts."""
SURFACE_COIL_CORRECTION = 29


@dataclass(frozen=True)
class Readouts:
    """All readouts of one measurement in the order of acquisition.

    Raises ScanError when the samples are not as many as the headers say, or not finite.
    """

    head: NDArray[np.void]
    """(readouts,) of type `HEAD`."""
    samples: NDArray[np.complex64]
    """All samples, one readout after the other; within one, channel after channel."""
    trajectory: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """All k-space positions, one readout after the other; within one, sample after sample. Empty
    where they were not kept."""

    def __post_init__(self) -> None:
        if self.head.dtype != HEAD or self.head.ndim != 1:
            raise ValueError("readout headers must be a one-dimensional array of type HEAD")
        if self.samples.shape != (int(self.lengths.sum()),):
            raise ScanError(
                "readout-length",
                "the readouts hold more or fewer samples than their headers say; "
                "convert the raw data again",
            )
        if len(self.trajectory) not in (0, int(self.positions.sum())):
            raise ScanError(
                "trajectory-length",
                "the readouts hold more or fewer k-space positions than their headers say; "
                "convert the raw data again",
            )
        if not np.isfinite(self.samples).all():
            raise ScanError("not-finite", "a readout holds NaN or infinite values; export it again")

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(readouts,) complex samples of all channels."""
        channels = self.head["active_channels"].astype(np.int64)
        return np.asarray(channels * self.head["number_of_samples"])

    @property
    def positions(self) -> NDArray[np.int64]:
        """(readouts,) numbers that the trajectory of each has."""
        return positions_of(self.head)

    def stack(self, chosen: NDArray[np.bool_]) -> NDArray[np.complex64]:
        """(readouts, channels, samples) of the chosen ones, reversed ones turned, discards cut off.

        Raises ScanError unless they are alike in size.
        """
        heads = self.head[chosen]
        names = ("active_channels", "number_of_samples", "discard_pre", "discard_post")
        sizes = {tuple(int(head[name]) for name in names) for head in heads}
        if len(sizes) != 1:
            raise ScanError(
                "readouts-differ",
                "readouts of one kind differ in channels, samples or discarded samples; "
                "export one measurement at a time",
            )
        channels, samples, before, after = sizes.pop()
        if channels == 0 or before + after >= samples:
            raise ScanError("empty-readout", "the readouts hold no sample; export the scan again")
        ends = np.cumsum(self.lengths)
        starts = (ends - self.lengths)[chosen]
        stacked = np.stack(
            [self.samples[start : start + channels * samples] for start in starts]
        ).reshape(len(heads), channels, samples)
        turned = flagged(self.head, REVERSE)[chosen]
        stacked[turned] = stacked[turned, :, ::-1]
        # Discards are counted in the order of acquisition, so a reversed readout loses its ends
        # the other way round.
        if before != after and turned.any():
            raise ScanError(
                "reversed-discard",
                "reversed readouts with unequal discards are not read; remove the discards first",
            )
        return np.ascontiguousarray(stacked[:, :, before : samples - after])

    def trajectories(self, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(readouts, samples, 2) k-space positions of the chosen ones, without those of discards.

        All have two dimensions. Raises ScanError where they differ in length.
        """
        if flagged(self.head, REVERSE)[chosen].any():
            raise ScanError(
                "reversed-trajectory",
                "readouts with a trajectory cannot be reversed too; clear the flag",
            )
        starts = (np.cumsum(self.positions) - self.positions)[chosen]
        counts = self.positions[chosen]
        if len(set(counts.tolist())) != 1:
            raise ScanError("readouts-differ", "the trajectories differ in length; export again")
        stacked = np.stack(
            [self.trajectory[at : at + n] for at, n in zip(starts, counts, strict=True)]
        ).reshape(len(counts), -1, 2)
        before, after = (int(self.head[n][chosen][0]) for n in ("discard_pre", "discard_post"))
        return np.ascontiguousarray(stacked[:, before : stacked.shape[1] - after])


def positions_of(heads: NDArray[np.void]) -> NDArray[np.int64]:
    """(readouts,) numbers that the trajectory of each has."""
    dimensions = heads["trajectory_dimensions"].astype(np.int64)
    return np.asarray(dimensions * heads["number_of_samples"])


def flagged(heads: NDArray[np.void], *bits: int) -> NDArray[np.bool_]:
    """(readouts,), True where one of the flags is set; the standard counts them from 1."""
    wanted = sum(1 << (bit - 1) for bit in bits)
    return np.asarray(heads["flags"] & np.uint64(wanted) != 0)


def joined(first: Readouts, second: Readouts) -> Readouts:
    """Readouts of two measurements as one."""
    return Readouts(
        np.concatenate([first.head, second.head]),
        np.concatenate([first.samples, second.samples]),
        np.concatenate([first.trajectory, second.trajectory]),
    )


def only_noise(readouts: Readouts) -> Readouts:
    """Those that are noise, without positions. Raises ScanError where there is none."""
    chosen = flagged(readouts.head, NOISE)
    if not chosen.any():
        raise ScanError("no-noise", "the noise measurement holds no noise readouts; give another")
    head = readouts.head[chosen].copy()
    head["trajectory_dimensions"] = 0
    samples = readouts.samples[np.repeat(chosen, readouts.lengths)]
    return Readouts(head, samples, np.zeros(0, np.float32))
