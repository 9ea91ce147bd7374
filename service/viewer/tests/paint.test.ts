import { describe, expect, it } from "vitest";

import { colourAt, look, paint } from "../src/paint";
import { across, at, difference, masked, quantile } from "../src/plane";
import { Viewport } from "../src/viewport";
import type { Volume } from "../src/volume";

const GREY: [number, number, number][] = [
  [0, 0, 0],
  [255, 255, 255],
];

function image(width: number, height: number): ImageData {
  const data = new Uint8ClampedArray(4 * width * height);
  return { width, height, data, colorSpace: "srgb" } as ImageData;
}

/** Reds of a picture that is as wide as its voxels times `size`. */
function painted(values: number[], columns: number, smooth: boolean, size = 2): (number | null)[] {
  const rows = values.length / columns;
  const viewport = new Viewport({ rows, columns, pixel: [1, 1] });
  viewport.resize(columns * size, rows * size);
  const target = image(columns * size, rows * size);
  const plane = { rows, columns, values: Float32Array.from(values) };
  paint(target, 1, viewport, plane, look(GREY, { low: 0, high: 1 }), smooth);
  return Array.from({ length: columns * rows * size * size }, (_, pixel) =>
    target.data[4 * pixel + 3] === 0 ? null : (target.data[4 * pixel] as number),
  );
}

describe("painting", () => {
  it("gives every voxel its colour", () => {
    expect(painted([0, 1], 2, false, 1)).toEqual([0, 255]);
    expect(painted([0, 1], 2, false).slice(0, 4)).toEqual([0, 0, 255, 255]);
  });

  it("interpolates values between the centres of voxels", () => {
    expect(painted([0, 1], 2, true, 4).slice(0, 8)).toEqual([0, 0, 32, 96, 159, 223, 255, 255]);
  });

  it("draws nothing where there is no value", () => {
    expect(painted([0.5, Number.NaN], 2, false, 1)).toEqual([128, null]);
    expect(painted([1, Number.NaN], 2, true, 4).slice(0, 8)).toEqual([
      255, 255, 255, 255, null, null, null, null,
    ]);
  });

  it("lets what lies below shine through", () => {
    const viewport = new Viewport({ rows: 1, columns: 1, pixel: [1, 1] });
    const target = image(1, 1);
    const plane = { rows: 1, columns: 1, values: Float32Array.of(1) };
    paint(target, 1, viewport, plane, look(GREY, { low: 0, high: 2 }), true);
    const red = look([[255, 0, 0]], { low: 0, high: 1 }, () => 0.5);
    paint(target, 1, viewport, plane, red, true);
    expect([...target.data]).toEqual([192, 64, 64, 255]);
  });

  it("begins below where the first row is the lowest one", () => {
    const values = Float32Array.of(0, 1, 0.5);
    for (const smooth of [true, false]) {
      const viewport = new Viewport({ rows: 3, columns: 1, pixel: [1, 1], upward: true });
      viewport.resize(1, 3);
      const target = image(1, 3);
      paint(target, 1, viewport, { rows: 3, columns: 1, values }, look(GREY, { low: 0, high: 1 }), smooth);
      expect([0, 4, 8].map((at) => target.data[at])).toEqual([128, 255, 0]);
    }
  });

  it("has colours between the stops", () => {
    expect(colourAt(GREY, 0.2)).toEqual([51, 51, 51]);
    expect(colourAt(GREY, 1)).toEqual([255, 255, 255]);
  });
});

describe("planes", () => {
  const values = Float32Array.from({ length: 2 * 3 * 4 }, (_, voxel) => voxel);
  const volume = { slices: 2, rows: 3, columns: 4, values } as Volume;

  it("across the slices are rows of slices", () => {
    const coronal = across(volume, "rows", 1);
    expect([coronal.rows, coronal.columns]).toEqual([2, 4]);
    expect([...coronal.values]).toEqual([4, 5, 6, 7, 16, 17, 18, 19]);
    const sagittal = across(volume, "columns", 3);
    expect([...sagittal.values]).toEqual([3, 7, 11, 15, 19, 23]);
  });

  it("are subtracted, masked and summarised without their gaps", () => {
    const a = { rows: 1, columns: 3, values: Float32Array.of(3, Number.NaN, 5) };
    const b = { rows: 1, columns: 3, values: Float32Array.of(1, 1, Number.NaN) };
    expect([...difference(a, b).values]).toEqual([2, Number.NaN, Number.NaN]);
    expect([...masked(a, b).values]).toEqual([3, Number.NaN, Number.NaN]);
    expect(quantile(a.values, 0.5)).toBe(5);
    expect([at(a, 0, 0), at(a, 0, 1), at(a, 0, 3)]).toEqual([3, null, null]);
  });
});
