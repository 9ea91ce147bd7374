import { describe, expect, it } from "vitest";

import { labelled, round, ticks } from "../src/ticks";

describe("ticks", () => {
  it("are round and inside", () => {
    expect(ticks(0, 1)).toEqual([0, 0.2, 0.4, 0.6000000000000001, 0.8, 1]);
    expect(ticks(1, 1.2)).toHaveLength(5);
    expect(ticks(2, 2)).toEqual([]);
    expect([round(0.37), round(5), round(99)]).toEqual([0.2, 5, 50]);
  });

  it("are written with as few digits as tell them apart", () => {
    const texts = (low: number, high: number) => labelled(low, high).marks.map(([, text]) => text);
    expect(texts(0, 0.088)).toEqual(["0", "0.02", "0.04", "0.06", "0.08"]);
    expect(texts(-0.25, 0.3)).toEqual(["−0.2", "−0.1", "0", "0.1", "0.2", "0.3"]);
    expect(labelled(0, 4.2e-6)).toEqual({
      power: "10⁻⁶",
      marks: [0, 1, 2, 3, 4].map((value) => [value * 1e-6, String(value)]),
    });
  });
});
