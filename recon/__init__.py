"""Posterior sampling for Cartesian MRI: tensors in, tensors out; no network, clock or global state.

Conventions, stated once:

* Images are complex64 (..., rows, columns); k-space is complex64 (..., coils, rows, columns) with
  zero frequency at index n // 2 of both axes.
* The Fourier transform is centred and orthonormal, for odd sizes too (`recon.operators.fft2c`).
* Coil maps satisfy sum |S|^2 = 1 inside the object, so the measurement operator has norm <= 1.
* `sigma` and `noise_std` are standard deviations of one real component of white complex noise.
* Everything between calibration and output is in units where the 99th percentile of the coarse
  reconstruction's magnitude is 1; `PreparedSlice.scale` undoes it.
* Randomness is an argument: one generator per (seed, slice, chain).
"""
