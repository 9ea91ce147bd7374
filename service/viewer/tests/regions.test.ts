import { describe, expect, it } from "vitest";

import { bounds, cut, drawn, grown, moved, polygon, question } from "../src/regions";
import type { Region } from "../src/regions";

const box = {
  plane: "slices",
  kind: "rectangle",
  from: { row: 8, column: 2 },
  to: { row: 4, column: 10 },
} satisfies Region;

function area(corners: [number, number][]): number {
  return Math.abs(
    corners.reduce((sum, [r, c], at) => {
      const [nextRow, nextColumn] = corners[(at + 1) % corners.length] as [number, number];
      return sum + (r * nextColumn - nextRow * c) / 2;
    }, 0),
  );
}

describe("regions", () => {
  it("are polygons of rows and columns", () => {
    expect(area(polygon(box))).toBe(32);
  });

  it("as ellipses have the area of one", () => {
    const found = area(polygon({ ...box, kind: "ellipse" }));
    expect(found / (Math.PI * 2 * 4)).toBeCloseTo(1, 2);
  });

  it("move, and grow about their middle", () => {
    expect(bounds(moved(box, 1, -2))).toEqual({ top: 5, bottom: 9, left: 0, right: 8 });
    expect(bounds(grown(box, 1, 0.5))).toEqual({ top: 3, bottom: 9, left: 1.5, right: 10.5 });
  });

  it("do not shrink to nothing", () => {
    expect(drawn(grown(box, -100, -100))).toBe(true);
  });

  it("of no extent are not asked about", () => {
    expect(drawn({ ...box, to: { row: 8, column: 5 } })).toBe(false);
    expect(drawn({ plane: "slices", kind: "polygon", corners: [{ row: 0, column: 0 }] })).toBe(false);
  });

  it("across the slices are asked about with the scan's numbers of slices", () => {
    const across = { ...box, plane: "rows" } satisfies Region;
    const asked = question(across, box, 16, 19, 3);
    expect(asked).toMatchObject({ plane: "rows", slice: 16, through: 19 });
    expect(asked.region.polygon).toEqual(polygon(box).map(([row, column]) => [row + 3, column]));
    expect(question(box, null, 5, null, 3)).toMatchObject({
      plane: "slices", slice: 5, through: null, region: { polygon: polygon(box) }, reference: null,
    });
  });

  it("are boxes in the other planes, where these cut them", () => {
    // Rows 4 to 8 and columns 2 to 10 of slices 1 to 3.
    expect(cut(box, [1, 3], "rows", 6)).toEqual({ top: 0.5, bottom: 3.5, left: 2, right: 10 });
    expect(cut(box, [1, 3], "columns", 10)).toEqual({ top: 0.5, bottom: 3.5, left: 4, right: 8 });
    expect(cut(box, [1, 3], "columns", 11)).toBeNull();
    // Slices 4 to 8 and columns 2 to 10 of row 20.
    const row = { ...box, plane: "rows" } satisfies Region;
    expect(cut(row, [20, 20], "slices", 4)).toEqual({ top: 19.5, bottom: 20.5, left: 2, right: 10 });
    expect(cut(row, [20, 20], "slices", 3)).toBeNull();
    expect(cut(row, [20, 20], "columns", 5)).toEqual({ top: 4, bottom: 8, left: 19.5, right: 20.5 });
    // Slices 4 to 8 and rows 2 to 10 of columns 20 and 21.
    const column = { ...box, plane: "columns" } satisfies Region;
    expect(cut(column, [20, 21], "slices", 8)).toEqual({ top: 2, bottom: 10, left: 19.5, right: 21.5 });
    expect(cut(column, [20, 21], "rows", 10)).toEqual({ top: 4, bottom: 8, left: 19.5, right: 21.5 });
  });
});
