import { describe, expect, it } from "vitest";

import { selfCheckWords } from "../src/charts";
import { EventReader } from "../src/events";
import { bytes, duration, family, number, percent } from "../src/format";
import { parseVolume, valueAt } from "../src/volume";

describe("numbers", () => {
  it.each([
    [0, "0"],
    [0.0123456, "0.0123"],
    [1234.5, "1235"],
    [-2.5, "−2.50"],
    [1.234e-7, "1.23 × 10⁻⁷"],
    [5.5e12, "5.50 × 10¹²"],
    [null, "–"],
    [Number.NaN, "–"],
  ])("%s reads %s", (value, text) => {
    expect(number(value)).toBe(text);
  });

  it("of one table share a power of ten and their decimals", () => {
    const plain = family(0.593, 3e-4);
    expect([plain.power, plain.text(0.593), plain.text(-7.48e-4)]).toEqual(["", "0.5930", "−0.0007"]);
    const small = family(5.93e-7, 3e-9);
    expect([small.power, small.text(5.93e-7), small.text(3e-9)]).toEqual(["10⁻⁹", "593", "3"]);
  });

  it("have units", () => {
    expect([bytes(999), bytes(1500), bytes(2.5e9)]).toEqual(["999 B", "1.5 kB", "2.5 GB"]);
    expect([duration(12), duration(200), duration(7500)]).toEqual(["12 s", "3 min 20 s", "2 h 5 min"]);
    expect(percent(0.414)).toBe("41 %");
  });
});

describe("an event stream", () => {
  it("may come in any pieces", () => {
    const text = ': hello\n\nevent: progress\r\nid: 7\ndata: {"fraction": 0.5}\n\nevent: end\nid: 8\ndata: {}\n\n';
    const reader = new EventReader();
    const events = [...text].flatMap((letter) => reader.read(letter));
    expect(events).toEqual([
      { type: "progress", id: "7", data: { fraction: 0.5 } },
      { type: "end", id: "8", data: {} },
    ]);
  });
});

describe("a volume", () => {
  const file = new ArrayBuffer(352 + 4 * 6);
  const header = new DataView(file);
  header.setInt32(0, 348, true);
  [3, 2, 1].forEach((size, at) => header.setInt16(42 + 2 * at, size, true));
  header.setInt16(70, 16, true);
  header.setFloat32(108, 352, true);
  header.setFloat32(124, 5, true);
  for (let at = 0; at < 6; at += 1) header.setFloat32(352 + 4 * at, at, true);

  it("is read by row and column", () => {
    const volume = parseVolume(file);
    expect(volume.window).toEqual({ low: 0, high: 5 });
    expect(valueAt(volume, 0, 1, 0)).toBe(3);
    expect(valueAt(volume, 0, 2, 0)).toBeNull();
    expect(valueAt(volume, 1, 0, 0)).toBeNull();
  });

  it("of complex numbers is refused", () => {
    const other = file.slice(0);
    new DataView(other).setInt16(70, 32, true);
    expect(() => parseVolume(other)).toThrow("float32");
  });
});

describe("the self-check", () => {
  const check = { lines: 3, residual_std: 1.6, coverage_50: 0.3, coverage_90: 0.6, ratio: 2.5, freedom: 400 };

  it("says when intervals are too narrow", () => {
    expect(selfCheckWords(check)).toContain("too narrow");
    expect(selfCheckWords({ ...check, coverage_90: 0.9 })).toContain("about what they promise");
  });
});
