/** One plane through a volume: rows of values, NaN where there is none. */

import type { Volume } from "./volume";

export interface Plane {
  rows: number;
  columns: number;
  values: Float32Array;
}

/** A slice as it was acquired; no copy. */
export function sliceOf(volume: Volume, at: number): Plane {
  const { rows, columns } = volume;
  const size = rows * columns;
  return { rows, columns, values: volume.values.subarray(at * size, (at + 1) * size) };
}

/** The plane across all slices at a row (columns rightwards) or a column (rows rightwards). */
export function across(volume: Volume, plane: "rows" | "columns", at: number): Plane {
  const { rows, columns, slices, values } = volume;
  const width = plane === "rows" ? columns : rows;
  const drawn = new Float32Array(slices * width);
  for (let slice = 0; slice < slices; slice += 1) {
    for (let x = 0; x < width; x += 1) {
      const voxel = plane === "rows" ? at * columns + x : x * columns + at;
      drawn[slice * width + x] = values[slice * rows * columns + voxel] ?? Number.NaN;
    }
  }
  return { rows: slices, columns: width, values: drawn };
}

/** What one plane is more than another of the same size. */
export function difference(a: Plane, b: Plane): Plane {
  return { ...a, values: a.values.map((value, at) => value - (b.values[at] ?? Number.NaN)) };
}

/** The plane where another one has values, NaN elsewhere. */
export function masked(plane: Plane, mask: Plane): Plane {
  const values = plane.values.map((value, at) =>
    Number.isNaN(mask.values[at] ?? Number.NaN) ? Number.NaN : value,
  );
  return { ...plane, values };
}

const ENOUGH = 400_000;

/** Quantile of the values that are numbers (of so many at least); NaN where there is none. */
export function quantile(values: Float32Array, share: number): number {
  const stride = Math.max(1, Math.floor(values.length / ENOUGH));
  const known = values.filter((value, at) => at % stride === 0 && !Number.isNaN(value)).sort();
  if (known.length === 0) return Number.NaN;
  return known[Math.min(known.length - 1, Math.floor(share * known.length))] ?? Number.NaN;
}

/** The value of the voxel, or null outside and where there is none. */
export function at(plane: Plane, row: number, column: number): number | null {
  if (row < 0 || column < 0 || row >= plane.rows || column >= plane.columns) return null;
  const value = plane.values[row * plane.columns + column] ?? Number.NaN;
  return Number.isNaN(value) ? null : value;
}
