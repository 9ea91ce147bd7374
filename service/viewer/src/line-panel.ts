/** The values along the line, with the interval in which nine of ten true ones lie. */

import { api, ServiceError } from "./api";
import type { PointsAnswer } from "./api";
import { fill, h, svg } from "./elements";
import { number } from "./format";
import { along, lengthOf, lengthWords } from "./marks";
import { labelled } from "./ticks";
import type { Line } from "./view";
import type { Grid, Voxel } from "./viewport";

const CALM = 120;
const MOST = 256;
const [WIDE, HIGH, LEFT, BELOW] = [330, 150, 40, 30];

export class LinePanel {
  readonly element = h("section", { class: "panel", "aria-labelledby": "line-head" });
  private readonly body = h("div", { "aria-live": "polite" });
  private readonly remover: HTMLButtonElement;
  private timer = 0;
  private question = 0;

  constructor(
    private readonly job: string,
    private readonly grid: Grid,
    private readonly inMillimetres: boolean,
    remove: () => void,
  ) {
    this.remover = h(
      "button",
      { type: "button", class: "small", "aria-label": "Remove the line", onclick: remove },
      "Remove",
    );
    const head = h("div", { class: "row" }, h("h2", { id: "line-head" }, "Line"), this.remover);
    this.element.append(head, this.body);
    this.ask(0, null);
  }

  /** Ask about a line of a slice, once nobody has changed it for a moment. */
  ask(slice: number, line: Line | null): void {
    clearTimeout(this.timer);
    this.question += 1;
    this.remover.hidden = line === null;
    if (line === null) {
      const words = "Draw a line (L) to measure a length, and to read the values along it.";
      fill(this.body, h("p", { class: "faint" }, words));
      return;
    }
    this.element.setAttribute("aria-busy", "true");
    this.timer = window.setTimeout(() => void this.fetch(this.question, slice, line), CALM);
  }

  private async fetch(question: number, slice: number, line: Line): Promise<void> {
    const voxels = Math.hypot(line.to.row - line.from.row, line.to.column - line.from.column);
    const count = Math.min(MOST, Math.max(2, Math.ceil(2 * voxels)));
    const points = along(line, count);
    const kept = points.map((point) => inside(point, this.grid));
    const length = lengthOf(line, this.grid.pixel);
    try {
      const asked = points.filter((_, at) => kept[at]);
      if (asked.length < 2) throw new Error("The line lies outside the slice.");
      const answer = await api.points(this.job, slice, asked);
      if (question !== this.question) return;
      const first = kept.indexOf(true);
      const places = asked.map((_, at) => (length * (first + at)) / (count - 1));
      const unit = this.inMillimetres ? "mm" : "voxels";
      const words = `${lengthWords(line, this.grid.pixel, this.inMillimetres)} long. The band holds the true value with 90 % (from ${answer.samples} samples).`;
      fill(this.body, profile(answer, places, length, unit), h("p", { class: "faint" }, words));
    } catch (error) {
      if (question !== this.question) return;
      const detail = error instanceof ServiceError ? error.problem.detail : (error as Error).message;
      fill(this.body, h("p", { class: "warning", role: "alert" }, detail));
    } finally {
      if (question === this.question) this.element.removeAttribute("aria-busy");
    }
  }
}

function inside({ row, column }: Voxel, { rows, columns }: Grid): boolean {
  return row >= 0 && column >= 0 && row <= rows - 1 && column <= columns - 1;
}

/** Mean and 90 % band over the place along the line. */
function profile(answer: PointsAnswer, places: number[], length: number, unit: string): SVGElement {
  const top = Math.max(...answer.high) * 1.03 || 1;
  const bottom = Math.min(0, ...answer.low);
  const x = (place: number) => LEFT + (place / length) * (WIDE - LEFT - 6);
  const y = (value: number) =>
    HIGH - BELOW - ((value - bottom) / (top - bottom)) * (HIGH - BELOW - 8);
  const spot = (place: number, value: number) => `${x(place).toFixed(1)},${y(value).toFixed(1)}`;
  const line = (values: number[]) => values.map((value, at) => spot(places[at] ?? 0, value));
  const band = [...line(answer.high), ...line(answer.low).reverse()].join(" ");
  const { power, marks } = labelled(bottom, top);
  const largest = Math.max(...answer.mean);
  const label = `Profile over ${number(length)} ${unit}: mean up to ${number(largest)}`;
  return svg(
    "svg",
    { class: "chart profile", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label },
    ...marks.flatMap(([value, text]) => [
      svg("line", { class: "grid", x1: LEFT, x2: WIDE - 6, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 5, y: y(value) + 3, "text-anchor": "end" }, text),
    ]),
    ...labelled(0, length, 5).marks.map(([place, text]) =>
      svg("text", { x: x(place), y: HIGH - BELOW + 13, "text-anchor": "middle" }, text),
    ),
    svg("polygon", { class: "band", points: band }),
    svg("polyline", { class: "mean", points: line(answer.mean).join(" ") }),
    svg("line", { class: "axis", x1: LEFT, x2: WIDE - 6, y1: HIGH - BELOW, y2: HIGH - BELOW }),
    svg("text", { x: WIDE - 6, y: HIGH - 4, "text-anchor": "end" }, `along the line (${unit})`),
    svg("text", { x: LEFT, y: HIGH - 4 }, power ? `values in ${power} a.u.` : "values in a.u."),
  );
}
