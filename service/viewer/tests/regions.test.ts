import { describe, expect, it } from "vitest";

import { bounds, drawn, grown, moved, polygon } from "../src/regions";
import type { Region } from "../src/regions";

const box: Region = {
  kind: "rectangle",
  from: { row: 8, column: 2 },
  to: { row: 4, column: 10 },
};

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
    expect(drawn({ kind: "ellipse", from: { row: 1, column: 1 }, to: { row: 1, column: 5 } })).toBe(
      false,
    );
    expect(drawn({ kind: "polygon", corners: [{ row: 0, column: 0 }] })).toBe(false);
  });
});
