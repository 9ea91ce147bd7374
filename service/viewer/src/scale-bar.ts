/** How long a centimetre is on the screen. */

import { svg } from "./elements";
import { round } from "./ticks";
import type { Viewport } from "./viewport";

const SHARE = 0.28;

/** A bar of a round length in the lower right corner; in voxels where the scan gives no sizes. */
export function scaleBar(viewport: Viewport, inMillimetres: boolean): SVGElement[] {
  const { width, height, scale } = viewport;
  const length = round((SHARE * width) / scale);
  const right = width - 12;
  const y = height - 36; // above what is said of the voxel under the pointer
  const left = right - length * scale;
  const unit = inMillimetres ? "mm" : length === 1 ? "voxel" : "voxels";
  const words = inMillimetres && length >= 10 ? `${length / 10} cm` : `${length} ${unit}`;
  const path = `M${left.toFixed(1)} ${y - 5}V${y}H${right}V${y - 5}`;
  return [
    svg("path", { class: "halo", d: path }),
    svg("path", { class: "scale", d: path }),
    svg("text", { class: "name scale", x: (left + right) / 2, y: y - 8, "text-anchor": "middle" }, words),
  ];
}
