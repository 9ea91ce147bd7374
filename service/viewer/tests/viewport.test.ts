import { describe, expect, it } from "vitest";

import { Viewport } from "../src/viewport";

function viewport(): Viewport {
  const made = new Viewport({ rows: 10, columns: 20, pixel: [2, 1] });
  made.resize(400, 300);
  return made;
}

describe("a viewport", () => {
  it("fits the slice, with the true shape of its voxels", () => {
    // 20 mm x 20 mm in 400 x 300 pixels: 15 pixels per mm, centred.
    expect(viewport().frame()).toEqual({ left: 50, top: 0, width: 300, height: 300 });
  });

  it("goes from voxels to the screen and back", () => {
    const at = viewport();
    at.zoomAt(3, { x: 20, y: 30 });
    at.pan(-7, 11);
    const back = at.toVoxel(at.toScreen({ row: 2.25, column: 13.5 }));
    expect(back.row).toBeCloseTo(2.25, 10);
    expect(back.column).toBeCloseTo(13.5, 10);
  });

  it("keeps what lies under the pointer while it zooms", () => {
    const at = viewport();
    const pointer = { x: 160, y: 140 };
    const before = at.toVoxel(pointer);
    at.zoomAt(2, pointer);
    const after = at.toVoxel(pointer);
    expect(after.row).toBeCloseTo(before.row, 10);
    expect(after.column).toBeCloseTo(before.column, 10);
  });

  it("never loses the slice", () => {
    const at = viewport();
    at.pan(1e6, -1e6);
    const { left, top, width, height } = at.frame();
    expect(left).toBeLessThanOrEqual(400);
    expect(top + height).toBeGreaterThanOrEqual(0);
    expect(width).toBeGreaterThan(0);
  });

  it("says how far its centre is from that of the slice, upwards positive", () => {
    const at = viewport();
    at.pan(30, 30);
    expect(at.offset().x).toBeCloseTo(-2, 10);
    expect(at.offset().y).toBeCloseTo(2, 10);
  });

  it("may have its first row below", () => {
    const upright = viewport();
    const at = new Viewport({ ...upright.grid, upward: true });
    at.resize(400, 300);
    expect(at.frame()).toEqual(upright.frame());
    const { x, y } = upright.toScreen({ row: 9, column: 4 });
    expect(at.toScreen({ row: 0, column: 4 })).toEqual({ x, y });
    expect(at.toVoxel({ x, y }).row).toBeCloseTo(0, 10);
    const box = { top: 0, bottom: 2, left: 0, right: 4 };
    expect(at.box(box).top).toBeCloseTo(at.toScreen({ row: 2, column: 0 }).y, 10);
    expect(at.box(box).height).toBe(upright.box(box).height);
    at.zoomAt(2, { x, y });
    upright.zoomAt(2, { x, y });
    at.pan(0, 20);
    upright.pan(0, 20);
    expect(at.offset().y).toBeCloseTo(upright.offset().y, 10);
    expect(at.toScreen({ row: 0, column: 4 }).y).toBeCloseTo(y + 20, 10);
  });
});
