/** Regions and line as they are drawn over a picture; on the page and in exported figures. */

import type { PlaneName } from "./api";
import { svg } from "./elements";
import { number } from "./format";
import { bounds, polygon } from "./regions";
import type { Region } from "./regions";
import type { Line, Marks, Slot } from "./view";
import type { Box, Viewport, Voxel } from "./viewport";

/** How long a line is: in mm, or in voxels where the scan does not say how large these are. */
export function lengthOf({ from, to }: Line, [high, wide]: [number, number]): number {
  return Math.hypot((to.row - from.row) * high, (to.column - from.column) * wide);
}

/** How long it is, in words. */
export function lengthWords(line: Line, pixel: [number, number], inMillimetres: boolean): string {
  return `${number(lengthOf(line, pixel))} ${inMillimetres ? "mm" : "voxels"}`;
}

/** What was drawn in a plane; lines are drawn on slices only. */
export function marksShapes(
  marks: Marks,
  viewport: Viewport,
  active: Slot | null,
  inMillimetres: boolean,
  plane: PlaneName = "slices",
): SVGElement[] {
  const shapes: SVGElement[] = [];
  for (const slot of ["A", "B"] as const) {
    const region = marks[slot];
    if (region?.plane === plane) shapes.push(...regionShapes(slot, region, viewport, slot === active));
  }
  const { line } = marks;
  if (line !== null && plane === "slices") shapes.push(...lineShapes(line, viewport, inMillimetres));
  return shapes;
}

/** The box of a region that was drawn in another plane. */
export function extentShape(slot: Slot, box: Box, viewport: Viewport): SVGElement {
  const { left: x, top: y, width, height } = viewport.box(box);
  return svg("rect", { class: `extent ${slot}`, x, y, width, height });
}

function regionShapes(
  slot: Slot,
  region: Region,
  viewport: Viewport,
  active: boolean,
): SVGElement[] {
  const corners = polygon(region).map(([row, column]) => viewport.toScreen({ row, column }));
  const points = corners.map(({ x, y }) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" ");
  const { left, top } = viewport.box(bounds(region));
  const name = { class: `name ${slot}`, x: left - 4, y: top - 5, "text-anchor": "end" };
  return [
    svg("polygon", { class: "halo", points }),
    svg("polygon", { class: `outline ${slot}${active ? " active" : ""}`, points, "data-slot": slot }),
    svg("text", name, slot),
  ];
}

function lineShapes(line: Line, viewport: Viewport, inMillimetres: boolean): SVGElement[] {
  const from = viewport.toScreen(line.from);
  const to = viewport.toScreen(line.to);
  const ends = { x1: from.x, y1: from.y, x2: to.x, y2: to.y };
  const words = lengthWords(line, viewport.grid.pixel, inMillimetres);
  const tick = ({ x, y }: { x: number; y: number }) => {
    const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
    const [dx, dy] = [(-5 * (to.y - from.y)) / length, (5 * (to.x - from.x)) / length];
    return svg("line", { class: "ruler", x1: x - dx, y1: y - dy, x2: x + dx, y2: y + dy });
  };
  const right = from.x < to.x ? to : from;
  return [
    svg("line", { class: "halo", ...ends }),
    svg("line", { class: "ruler", ...ends }),
    tick(from),
    tick(to),
    svg("text", { class: "name ruler", x: right.x + 8, y: right.y + 4 }, words),
  ];
}

/** The middle of a line and so on: points along it, in voxels, from end to end. */
export function along({ from, to }: Line, count: number): Voxel[] {
  return Array.from({ length: count }, (_, at) => ({
    row: from.row + (at / (count - 1)) * (to.row - from.row),
    column: from.column + (at / (count - 1)) * (to.column - from.column),
  }));
}
