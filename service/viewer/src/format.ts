/** Numbers, times and names as people read them. */

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** Three significant digits, with a power of ten where zeros would fill the line. */
export function number(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const exponent = Math.floor(Math.log10(Math.abs(value)));
  if (exponent >= -3 && exponent < 5) {
    return minus(value.toFixed(Math.max(0, digits - 1 - exponent)));
  }
  const [mantissa, power] = value.toExponential(digits - 1).split("e") as [string, string];
  return `${minus(mantissa)} × 10${raised(power)}`;
}

/** Writes numbers that belong together alike: one power of ten, as many decimals as tell them apart. */
export interface Family {
  /** `10⁻⁶`, or empty where none is needed. */
  power: string;
  text: (value: number) => string;
}

/** The power of ten in which numbers up to `largest` are written: 10⁻⁶, or nothing. */
export function powerOf(largest: number): { unit: number; power: string } {
  const top = largest > 0 ? Math.floor(Math.log10(largest)) : 0;
  const power = top < -2 || top > 3 ? 3 * Math.floor(top / 3) : 0;
  return { unit: 10 ** power, power: power === 0 ? "" : `10${raised(String(power))}` };
}

/** For numbers up to `largest` of which `finest` is the smallest that must show. */
export function family(largest: number, finest: number): Family {
  const { unit, power } = powerOf(largest);
  const top = largest > 0 ? Math.floor(Math.log10(largest / unit)) : 0;
  const last = finest > 0 ? Math.floor(Math.log10(finest / unit)) : 0;
  const decimals = Math.min(6, Math.max(2 - top, -last, 0));
  return {
    power,
    text: (value) => minus((value / unit).toFixed(decimals)),
  };
}

/** A share as a whole percentage. */
export function percent(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`;
}

/** `12 s`, `3 min 20 s`, `2 h 5 min`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return two(Math.floor(whole / 60), "min", whole % 60, "s");
  return two(Math.floor(whole / 3600), "h", Math.round((whole % 3600) / 60), "min");
}

/** Size of a file. */
export function bytes(count: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** Day and time, in the reader's time zone. */
export function moment(text: string | null): string {
  if (text === null) return "–";
  const at = new Date(text);
  const pad = (value: number) => String(value).padStart(2, "0");
  const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  return `${day} ${pad(at.getHours())}:${pad(at.getMinutes())}`;
}

/** The same to the second. */
export function exactMoment(text: string): string {
  return `${moment(text)}:${String(new Date(text).getSeconds()).padStart(2, "0")}`;
}

function raised(power: string): string {
  return power
    .replace("+", "")
    .replace("-", "⁻")
    .replace(/\d/g, (digit) => SUPERSCRIPTS[Number(digit)] ?? digit);
}

function two(large: number, one: string, small: number, other: string): string {
  return small === 0 ? `${large} ${one}` : `${large} ${one} ${small} ${other}`;
}

function minus(text: string): string {
  return text.replace("-", "−");
}
