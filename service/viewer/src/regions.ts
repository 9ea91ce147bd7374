/** Regions as they are drawn, and as the service is asked about them. */

import type { Corner, PlaneName, RegionQuestion } from "./api";
import type { Box, Voxel } from "./viewport";

/** In a plane across the slices its rows are positions in the stack. */
export type Region = { plane: PlaneName } & (
  | { kind: "rectangle" | "ellipse"; from: Voxel; to: Voxel }
  | { kind: "polygon"; corners: Voxel[] }
);

/** What the pictures of a plane lie behind each other along, and what their rows and columns are. */
const AXES: Record<PlaneName, [depth: number, row: number, column: number]> = {
  slices: [0, 1, 2],
  rows: [1, 0, 2],
  columns: [2, 0, 1],
};

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
export function bounds(region: Region): Box {
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

/** What the service is asked about a region in picture `place` of its plane, or from that through
 * another. `first` is the scan's number of the first slice of the stack.
 */
export function question(
  region: Region,
  reference: Region | null,
  place: number,
  through: number | null,
  first: number,
): RegionQuestion {
  const { plane } = region;
  const offset = plane === "slices" ? 0 : first;
  const asked = (of: Region) => ({
    polygon: polygon(of).map(([row, column]): Corner => [row + offset, column]),
  });
  return { plane, slice: place, through, region: asked(region), reference: reference && asked(reference) };
}

/** The box of a region where another plane's picture `at` cuts it, or null: it does not.
 *
 * `reach`: the first and the last picture of its own plane that it reaches through.
 */
export function cut(
  region: Region,
  reach: [first: number, last: number],
  plane: PlaneName,
  at: number,
): Box | null {
  const { top, bottom, left, right } = bounds(region);
  const ends: [number, number][] = [];
  const [depth, row, column] = AXES[region.plane];
  ends[depth] = [reach[0] - 0.5, reach[1] + 0.5];
  ends[row] = [top, bottom];
  ends[column] = [left, right];
  const [across, down, beside] = AXES[plane].map((axis) => ends[axis] ?? [0, 0]) as typeof ends;
  if (!across || !down || !beside || at < across[0] || at > across[1]) return null;
  return { top: down[0], bottom: down[1], left: beside[0], right: beside[1] };
}
