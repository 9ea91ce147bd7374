/** A NIfTI volume as the service sends it: float32, (columns, rows, slices), little endian. */

export interface Window {
  low: number;
  high: number;
}

export interface Volume {
  /** The whole file. */
  file: ArrayBuffer;
  columns: number;
  rows: number;
  slices: number;
  /** How the service would show it. */
  window: Window;
  values: Float32Array;
}

const FLOAT32 = 16;

/** Read header and values. Throws for anything but such a volume. */
export function parseVolume(file: ArrayBuffer): Volume {
  const header = new DataView(file);
  if (file.byteLength < 352 || header.getInt32(0, true) !== 348) {
    throw new Error("the volume is not NIfTI-1");
  }
  if (header.getInt16(70, true) !== FLOAT32) throw new Error("the volume is not float32");
  const columns = header.getInt16(42, true);
  const rows = header.getInt16(44, true);
  const slices = Math.max(1, header.getInt16(46, true));
  const start = header.getFloat32(108, true);
  const window = { high: header.getFloat32(124, true), low: header.getFloat32(128, true) };
  const values = new Float32Array(file, start, columns * rows * slices);
  return { file, columns, rows, slices, window, values };
}

/** The value of one voxel, or null outside. */
export function valueAt(
  volume: Volume,
  slice: number,
  row: number,
  column: number,
): number | null {
  const inside = row >= 0 && column >= 0 && row < volume.rows && column < volume.columns;
  if (!inside || slice < 0 || slice >= volume.slices) return null;
  return volume.values[(slice * volume.rows + row) * volume.columns + column] ?? null;
}
