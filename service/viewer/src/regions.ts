/** Regions as they are drawn, and as the service is asked about them. */

import type { Corner } from "./api";
import type { Voxel } from "./viewport";

export type Region =
  | { kind: "rectangle" | "ellipse"; from: Voxel; to: Voxel }
  | { kind: "polygon"; corners: Voxel[] };

const ELLIPSE_CORNERS = 72;

/** The corners, in voxels; an ellipse becomes a polygon that hides no pixel of it. */
export function polygon(region: Region): Corner[] {
  if (region.kind === "polygon") return region.corners.map(({ row, column }) => [row, column]);
  const { from, to } = region;
  if (region.kind === "rectangle") {
    return [
      [from.row, from.column],
      [from.row, to.column],
      [to.row, to.column],
      [to.row, from.column],
    ];
  }
  const middle: Corner = [(from.row + to.row) / 2, (from.column + to.column) / 2];
  const half: Corner = [Math.abs(to.row - from.row) / 2, Math.abs(to.column - from.column) / 2];
  return Array.from({ length: ELLIPSE_CORNERS }, (_, corner): Corner => {
    const angle = (2 * Math.PI * corner) / ELLIPSE_CORNERS;
    return [middle[0] + half[0] * Math.sin(angle), middle[1] + half[1] * Math.cos(angle)];
  });
}

/** Whether it is worth a question: it has some extent. */
export function drawn(region: Region): boolean {
  if (region.kind === "polygon") return region.corners.length >= 3;
  const { from, to } = region;
  return Math.abs(to.row - from.row) >= 0.5 && Math.abs(to.column - from.column) >= 0.5;
}

/** Moved by so many voxels. */
export function moved(region: Region, rows: number, columns: number): Region {
  const shift = ({ row, column }: Voxel): Voxel => ({ row: row + rows, column: column + columns });
  if (region.kind === "polygon") return { ...region, corners: region.corners.map(shift) };
  return { ...region, from: shift(region.from), to: shift(region.to) };
}

/** Larger by so many voxels on each side; a polygon grows about its middle. */
export function grown(region: Region, rows: number, columns: number): Region {
  const box = bounds(region);
  const middle = { row: (box.top + box.bottom) / 2, column: (box.left + box.right) / 2 };
  const by = (size: number, more: number) => Math.max(1, size + 2 * more) / Math.max(size, 1e-6);
  const tall = by(box.bottom - box.top, rows);
  const wide = by(box.right - box.left, columns);
  const stretch = ({ row, column }: Voxel): Voxel => ({
    row: middle.row + (row - middle.row) * tall,
    column: middle.column + (column - middle.column) * wide,
  });
  if (region.kind === "polygon") return { ...region, corners: region.corners.map(stretch) };
  return { ...region, from: stretch(region.from), to: stretch(region.to) };
}

/** The smallest box round it. */
export function bounds(region: Region): {
  top: number;
  bottom: number;
  left: number;
  right: number;
} {
  const corners = region.kind === "polygon" ? region.corners : [region.from, region.to];
  const rows = corners.map(({ row }) => row);
  const columns = corners.map(({ column }) => column);
  return {
    top: Math.min(...rows),
    bottom: Math.max(...rows),
    left: Math.min(...columns),
    right: Math.max(...columns),
  };
}
