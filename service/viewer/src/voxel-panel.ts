/** What the samples say of the voxel under the pointer. */

import { api, ServiceError } from "./api";
import type { PointsAnswer } from "./api";
import { fill, h, svg } from "./elements";
import { family, number } from "./format";
import { labelled } from "./ticks";
import type { Grid, Voxel } from "./viewport";

const CALM = 150;
const [WIDE, HIGH] = [330, 92];

export class VoxelPanel {
  readonly element = h("section", { class: "panel", "aria-labelledby": "voxel-head" });
  private readonly body = h("div");
  private timer = 0;
  private question = 0;
  private last = "";

  constructor(
    private readonly job: string,
    private readonly grid: Grid,
  ) {
    this.element.append(h("h2", { id: "voxel-head" }, "Samples in a voxel"), this.body);
    fill(this.body, h("p", { class: "faint" }, "Point at the picture to see what each sample says there."));
  }

  /** Ask about a voxel once the pointer rests on it; away from the slice the last one stays. */
  ask(slice: number, at: Voxel | null): void {
    clearTimeout(this.timer);
    const row = Math.round(at?.row ?? -1);
    const column = Math.round(at?.column ?? -1);
    if (row < 0 || column < 0 || row >= this.grid.rows || column >= this.grid.columns) return;
    const name = `${slice} ${row} ${column}`;
    if (name === this.last) return;
    this.question += 1;
    const { question } = this;
    this.timer = window.setTimeout(() => {
      this.last = name;
      api.points(this.job, slice, [{ row, column }]).then(
        (answer) => question === this.question && this.show(answer, row, column),
        (error: unknown) => {
          if (question !== this.question) return;
          const detail = error instanceof ServiceError ? error.problem.detail : String(error);
          fill(this.body, h("p", { class: "warning" }, detail));
        },
      );
    }, CALM);
  }

  private show(answer: PointsAnswer, row: number, column: number): void {
    const values = answer.values.map(([value]) => value ?? 0);
    const [mean, low, high] = [answer.mean[0] ?? 0, answer.low[0] ?? 0, answer.high[0] ?? 0];
    const write = family(Math.max(...values, high), Math.max((high - low) / 40, 1e-30));
    const unit = `${write.power ? `${write.power} ` : ""}a.u.`;
    fill(
      this.body,
      histogram(values, mean, low, high),
      h(
        "p",
        { class: "faint", "data-voxel": `${row},${column}` },
        `Row ${row}, column ${column}: mean ${write.text(mean)}, 90 % interval ${write.text(low)} to ${write.text(high)} ${unit}, ${values.length} samples.`,
      ),
    );
  }
}

/** Bars of the samples, a tick for each; the mean as a line and the 90 % interval shaded. */
function histogram(values: number[], mean: number, low: number, high: number): SVGElement {
  const pad = 0.08 * (Math.max(high, ...values) - Math.min(low, ...values)) || 1e-12;
  const from = Math.min(low, ...values) - pad;
  const to = Math.max(high, ...values) + pad;
  const x = (value: number) => 4 + ((value - from) / (to - from)) * (WIDE - 8);
  const bins = Math.min(24, Math.max(6, Math.ceil(2 * Math.sqrt(values.length))));
  const counts = Array.from({ length: bins }, () => 0);
  for (const value of values) {
    const bin = Math.min(bins - 1, Math.floor(((value - from) / (to - from)) * bins));
    counts[bin] = (counts[bin] ?? 0) + 1;
  }
  const most = Math.max(...counts);
  const floor = HIGH - 24;
  const step = (WIDE - 8) / bins;
  const label = `${values.length} samples between ${number(Math.min(...values))} and ${number(Math.max(...values))}`;
  return svg(
    "svg",
    { class: "chart histogram", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label },
    svg("rect", { class: "honest", x: x(low), y: 4, width: x(high) - x(low), height: floor - 4 }),
    ...counts.map((count, bin) => {
      const tall = (count / most) * (floor - 12);
      const place = { x: 4 + bin * step + 1, y: floor - tall, width: step - 2, height: tall };
      return svg("rect", { class: "bar", ...place });
    }),
    ...values.map((value) => svg("line", { class: "tick", x1: x(value), x2: x(value), y1: floor, y2: floor + 5 })),
    svg("line", { class: "mean", x1: x(mean), x2: x(mean), y1: 4, y2: floor }),
    svg("line", { class: "axis", x1: 4, x2: WIDE - 4, y1: floor, y2: floor }),
    ...labelled(from, to).marks.map(([value, text]) =>
      svg("text", { x: x(value), y: HIGH - 6, "text-anchor": "middle" }, text),
    ),
  );
}
