/** Small drawings of what the report says: residuals per coil, intervals against what they promise. */

import type { SelfCheck, SliceReport } from "./api";
import { h, svg } from "./elements";
import { number, percent } from "./format";

const HONEST: [number, number] = [0.9, 1.1];

/** χ² of every coil as bars, the honest range shaded. */
export function chiSquareChart(report: SliceReport): Element {
  const coils = report.chi2_per_coil ?? [report.chi2];
  const width = 240;
  const height = 74;
  const top = Math.max(1.5, ...coils) * 1.05;
  const y = (value: number) => height - 12 - (value / top) * (height - 18);
  const step = (width - 26) / coils.length;
  const bars = coils.map((value, coil) => {
    const honest = value >= HONEST[0] && value <= HONEST[1];
    return svg(
      "rect",
      {
        class: honest ? "bar" : "bar off",
        x: 26 + coil * step + step * 0.15,
        y: y(value),
        width: step * 0.7,
        height: height - 12 - y(value),
      },
      svg("title", {}, `Coil ${coil + 1}: ${number(value)}`),
    );
  });
  const label = `χ² per coil: ${coils.map((value) => number(value, 3)).join(", ")}`;
  return svg(
    "svg",
    { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    svg("rect", {
      class: "honest",
      x: 26,
      width: width - 26,
      y: y(HONEST[1]),
      height: y(HONEST[0]) - y(HONEST[1]),
    }),
    ...bars,
    svg("line", { class: "axis", x1: 26, x2: width, y1: height - 12, y2: height - 12 }),
    svg("text", { x: 22, y: y(1) + 3, "text-anchor": "end" }, "1"),
    svg("text", { x: 22, y: height - 9, "text-anchor": "end" }, "0"),
    svg("text", { x: 26 + (width - 26) / 2, y: height - 1, "text-anchor": "middle" }, "coils"),
  );
}

/** Share of held-out samples inside the intervals, beside the promised share. */
export function coverageChart(check: SelfCheck): HTMLElement {
  const line = (promised: number, found: number) =>
    h(
      "div",
      { class: "coverage" },
      h("span", {}, `${percent(promised)} intervals`),
      h(
        "span",
        { class: "track", "aria-hidden": "true" },
        meter(found, "found"),
        meter(promised, "promised"),
      ),
      h("span", {}, `held ${percent(found)}`),
    );
  return h("div", {}, line(0.5, check.coverage_50), line(0.9, check.coverage_90));
}

function meter(share: number, kind: string): HTMLElement {
  const element = h("i", { class: kind });
  const place = `${100 * Math.min(1, Math.max(0, share))}%`;
  if (kind === "found") element.style.width = place;
  else element.style.left = place;
  return element;
}

export const NO_SELF_CHECK =
  "There is none: it was switched off, or too few lines lie outside the calibration region.";

/** What the self-check means, in words. */
export function selfCheckWords(check: SelfCheck): string {
  const { lines, coverage_90: found, residual_std: spread } = check;
  const held = `${lines} acquired ${lines === 1 ? "line was" : "lines were"} left out of a second run and predicted.`;
  if (found < 0.8) {
    return `${held} The 90 % intervals held only ${percent(found)} of them (errors ${number(spread)} times as large as predicted): the intervals are too narrow. Do not take them at their word.`;
  }
  if (found > 0.97) {
    return `${held} The 90 % intervals held ${percent(found)} of them: the intervals are wider than they need to be.`;
  }
  return `${held} The 90 % intervals held ${percent(found)} of them, about what they promise.`;
}

/** Whether draws fit the data, in words. */
export function chiSquareWords(chi2: number): string {
  if (chi2 > HONEST[1]) {
    return "The samples miss the measured data by more than its noise: something is not modelled (motion, coil maps, a noise level set too low).";
  }
  if (chi2 < HONEST[0]) {
    return "The samples follow the measured data more closely than its noise allows: the noise level may be set too high.";
  }
  return "The samples agree with the measured data to within its noise.";
}

/** Whether the chains have mixed, in words. */
export function mixingWords(report: SliceReport): string {
  const share = report["rhat_below_1.1"];
  if (share === null) return "R̂ could not be computed.";
  const text = `R̂ is below 1.1 in ${percent(share)} of the object`;
  return report.converged ? `${text}: the chains agree.` : `${text}: the chains have not mixed yet.`;
}
