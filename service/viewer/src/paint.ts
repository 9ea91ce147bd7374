/** Values to colours on a canvas: what every pane, plane and exported figure is drawn with.
 *
 * Values are interpolated, not colours, so that a colour always stands for a value of the bar. NaN is
 * never drawn. No WebGL: a slice is small, and this runs the same on every machine.
 */

import type { Plane } from "./plane";
import type { Viewport } from "./viewport";
import type { Window } from "./volume";

export type Colour = [red: number, green: number, blue: number];

/** Which colour a value has, and how opaque it is. */
export interface Look {
  /** 256 times red, green, blue, alpha. */
  table: Uint8ClampedArray;
  window: Window;
}

const PLACES = 256;

/** Evenly spaced colours from the window's lower end to its upper one. */
export function look(
  colours: Colour[],
  window: Window,
  alpha: (share: number) => number = () => 1,
): Look {
  const table = new Uint8ClampedArray(4 * PLACES);
  for (let place = 0; place < PLACES; place += 1) {
    const share = place / (PLACES - 1);
    table.set([...colourAt(colours, share), 255 * alpha(share)], 4 * place);
  }
  return { table, window };
}

/** The colour so far along evenly spaced ones. */
export function colourAt(colours: Colour[], share: number): Colour {
  const along = share * (colours.length - 1);
  const below = Math.min(colours.length - 1, Math.floor(along));
  const a = colours[below] ?? [0, 0, 0];
  const b = colours[below + 1] ?? a;
  return a.map((value, channel) => value + (along - below) * ((b[channel] ?? 0) - value)) as Colour;
}

/** Draw a plane onto pixels, over what is there; `ratio` pixels are one unit of the viewport. */
export function paint(
  target: ImageData,
  ratio: number,
  viewport: Viewport,
  plane: Plane,
  { table, window }: Look,
  smooth: boolean,
): void {
  const { width, height, data } = target;
  const first = viewport.toVoxel({ x: 0.5 / ratio, y: 0.5 / ratio });
  const next = viewport.toVoxel({ x: 1.5 / ratio, y: 1.5 / ratio });
  const xs = places(width, first.column, next.column - first.column, plane.columns, smooth);
  const ys = places(height, first.row, next.row - first.row, plane.rows, smooth);
  const line = new Float32Array(plane.columns);
  const gain = (PLACES - 1) / Math.max(window.high - window.low, 1e-38);
  for (let y = 0; y < height; y += 1) {
    const upper = ys.below[y] as number;
    if (upper < 0) continue;
    const above = upper * plane.columns;
    const below = (ys.above[y] as number) * plane.columns;
    const down = ys.share[y] as number;
    for (let column = 0; column < plane.columns; column += 1) {
      line[column] = between(
        plane.values[above + column] as number,
        plane.values[below + column] as number,
        down,
      );
    }
    for (let x = 0; x < width; x += 1) {
      const left = xs.below[x] as number;
      if (left < 0) continue;
      const value = between(
        line[left] as number,
        line[xs.above[x] as number] as number,
        xs.share[x] as number,
      );
      if (Number.isNaN(value)) continue;
      const level = Math.round(gain * (value - window.low));
      const from = 4 * (level < 0 ? 0 : level >= PLACES ? PLACES - 1 : level);
      const to = 4 * (y * width + x);
      const opaque = (table[from + 3] as number) / 255;
      for (let channel = 0; channel < 3; channel += 1) {
        const there = data[to + channel] as number;
        data[to + channel] = there + opaque * ((table[from + channel] as number) - there);
      }
      data[to + 3] = Math.max(data[to + 3] as number, 255 * opaque);
    }
  }
}

function between(a: number, b: number, share: number): number {
  const value = a + share * (b - a);
  if (!Number.isNaN(value)) return value;
  return share < 0.5 ? a : b;
}

interface Places {
  below: Int32Array;
  above: Int32Array;
  share: Float32Array;
}

/** For every pixel the two voxels that it lies between; -1 outside. */
function places(
  pixels: number,
  start: number,
  step: number,
  voxels: number,
  smooth: boolean,
): Places {
  const found = {
    below: new Int32Array(pixels).fill(-1),
    above: new Int32Array(pixels),
    share: new Float32Array(pixels),
  };
  for (let pixel = 0; pixel < pixels; pixel += 1) {
    const at = start + step * pixel;
    if (at < -0.5 || at >= voxels - 0.5) continue;
    const held = Math.min(voxels - 1, Math.max(0, smooth ? at : Math.round(at)));
    const below = Math.floor(held);
    found.below[pixel] = below;
    found.above[pixel] = Math.min(voxels - 1, below + 1);
    found.share[pixel] = held - below;
  }
  return found;
}
