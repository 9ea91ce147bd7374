/** A strip below a picture that says which colour is which value. */

import { fill, h } from "./elements";
import { colourAt } from "./paint";
import type { Colour } from "./paint";
import { labelled } from "./ticks";
import type { Window } from "./volume";

const STEPS = 256;
/** Pixels that a tick needs for its number. */
const APART = 54;

/** What a bar says. */
export interface Legend {
  label: string;
  unit: string;
  colours: Colour[];
  window: Window;
}

/** The unit as it is written: images have the arbitrary units of the scan. */
export function unitOf(unit: string): string {
  return unit === "" ? "a.u." : unit;
}

/** Ticks of a legend: where along the bar (0 to 1), and what is written there. */
export function legendTicks(
  { window }: Legend,
  width: number,
): { power: string; at: [number, string][] } {
  const count = Math.min(5, Math.max(1, Math.floor(width / APART)));
  const { power, marks } = labelled(window.low, window.high, count);
  const along = (value: number) => (value - window.low) / (window.high - window.low);
  return { power, at: marks.map(([value, text]) => [along(value), text]) };
}

export class ColourBar {
  readonly element = h("figure", { class: "colour-bar", hidden: true });
  private readonly strip = h("canvas", { width: String(STEPS), height: "1", "aria-hidden": "true" });
  private readonly labels = h("div", { class: "labels" });
  private readonly caption = h("figcaption");
  private legend: Legend | null = null;

  constructor() {
    this.element.append(this.caption, h("div", { class: "bar" }, this.strip, this.labels));
    new ResizeObserver(() => this.write()).observe(this.strip);
  }

  show(legend: Legend | null): void {
    this.element.hidden = legend === null;
    this.legend = legend;
    if (legend === null) return;
    this.write();
    const context = this.strip.getContext("2d");
    if (context === null) return;
    const line = context.createImageData(STEPS, 1);
    for (let place = 0; place < STEPS; place += 1) {
      line.data.set([...colourAt(legend.colours, place / (STEPS - 1)), 255], 4 * place);
    }
    context.putImageData(line, 0, 0);
  }

  /** As many ticks as there is room for. */
  private write(): void {
    const { legend } = this;
    if (legend === null) return;
    const { power, at } = legendTicks(legend, this.strip.clientWidth);
    const unit = `${power ? `${power} ` : ""}${unitOf(legend.unit)}`;
    fill(this.caption, legend.label, " ", h("span", { class: "faint" }, unit));
    const marks = at.map(([place, text]) => {
      const mark = h("span", {}, text);
      mark.style.left = `${100 * place}%`;
      return mark;
    });
    fill(this.labels, ...marks);
  }
}
