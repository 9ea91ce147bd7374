/** Round numbers on an axis. */

import { powerOf } from "./format";

/** The 1, 2 or 5 times a power of ten next to a number above 0, not above it. */
export function round(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  const times = value / power;
  return power * (times >= 5 ? 5 : times >= 2 ? 2 : 1);
}

/** Round numbers from the lower end to the upper one, about so many. */
export function ticks(low: number, high: number, count = 4): number[] {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [];
  let step = round(span / count);
  while (span / step > 1.6 * count) step = round(2.51 * step);
  const first = Math.ceil(low / step - 1e-6);
  const last = Math.floor(high / step + 1e-6);
  return Array.from({ length: last - first + 1 }, (_, at) => (first + at) * step);
}

/** Ticks with what is written at them: as few digits as tell them apart, one power of ten for all. */
export function labelled(
  low: number,
  high: number,
  count = 4,
): { power: string; marks: [value: number, text: string][] } {
  const found = ticks(low, high, count);
  const [first = 0, second = 1] = found;
  const { unit, power } = powerOf(Math.max(...found.map(Math.abs), 0));
  const decimals = Math.max(0, -Math.floor(Math.log10((second - first) / unit) + 1e-9));
  return {
    power,
    marks: found.map((value) => {
      const text = (value / unit).toFixed(Math.min(decimals, 9));
      return [value, Number(text) === 0 ? "0" : text.replace("-", "−")];
    }),
  };
}
