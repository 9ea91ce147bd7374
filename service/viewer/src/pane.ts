/** One picture among up to four: the stage, what is written on it, and its colour bars below. */

import type { Edges } from "./api";
import { ColourBar, unitOf } from "./colour-bar";
import { fill, h } from "./elements";
import { number } from "./format";
import type { Layer, Shown } from "./layers";
import { at as valueAt } from "./plane";
import { Stage } from "./stage";
import type { StageEvents } from "./stage";
import type { Marks, View } from "./view";
import type { Grid, Voxel } from "./viewport";
import { Viewport } from "./viewport";

export class Pane {
  readonly element: HTMLElement;
  readonly stage: Stage;
  private readonly corner = h("p", { class: "corner" });
  private readonly readout = h("p", { class: "readout" });
  private readonly refusal = h("p", { class: "refusal", role: "status" }, "Loading…");
  private readonly bars = { base: new ColourBar(), overlay: new ColourBar() };
  private shown: Shown | null = null;

  constructor(grid: Grid, marks: Marks, inMillimetres: boolean, events: StageEvents) {
    this.stage = new Stage(new Viewport(grid), marks, inMillimetres, events);
    this.stage.element.append(this.corner, this.readout, this.refusal);
    this.element = h(
      "div",
      { class: "pane" },
      this.stage.element,
      h("div", { class: "bars" }, this.bars.base.element, this.bars.overlay.element),
    );
  }

  get layers(): Layer[] {
    const { shown } = this;
    if (shown === null) return [];
    return shown.overlay === null ? [shown.base] : [shown.base, shown.overlay];
  }

  get title(): string {
    return this.shown?.title ?? "";
  }

  /** Draw, and say in words what is drawn. */
  show(shown: Shown, view: View, words: { slice: string; edges: Edges | null }): void {
    this.shown = shown;
    const { stage } = this;
    fill(this.refusal);
    stage.name(words.edges);
    stage.show(this.layers, view.smooth);
    const over = shown.overlay ? ` + ${shown.overlay.legend.label}` : "";
    fill(
      this.corner,
      h("strong", {}, shown.title + over),
      h("span", {}, words.slice + (words.edges ? "" : " · sides unknown")),
    );
    const on = shown.overlay ? `; on top: ${shown.overlay.legend.label}` : "";
    stage.element.setAttribute(
      "aria-label",
      `${shown.meaning}${on}. ${words.slice}. Arrow keys change the slice, question mark lists all keys.`,
    );
    this.bars.base.show(shown.base.legend);
    this.bars.overlay.show(shown.overlay?.legend ?? null);
  }

  /** There is nothing to draw, for this reason. */
  refuse(reason: string): void {
    this.shown = null;
    this.stage.show([], true);
    fill(this.corner);
    fill(this.refusal, reason);
    this.bars.base.show(null);
    this.bars.overlay.show(null);
  }

  /** The values under the pointer, wherever it is; `where` on the pane that it is over. */
  point(voxel: Voxel | null, here: boolean): void {
    const { shown, stage } = this;
    stage.cursor = here ? null : voxel;
    stage.redraw();
    const row = Math.round(voxel?.row ?? -1);
    const column = Math.round(voxel?.column ?? -1);
    const { rows, columns } = stage.viewport.grid;
    const inside = row >= 0 && column >= 0 && row < rows && column < columns;
    if (shown === null || !inside) {
      fill(this.readout);
      return;
    }
    const parts = here ? [`row ${row}, column ${column}`] : [];
    for (const { plane, legend } of this.layers) {
      const value = valueAt(plane, row, column);
      const text = value === null ? "no value" : `${number(value)} ${unitOf(legend.unit)}`;
      parts.push(`${legend.label} ${text}`);
    }
    fill(this.readout, parts.join(" · "));
  }
}
