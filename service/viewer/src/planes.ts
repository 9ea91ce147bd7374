/** Three planes through a stack of slices, crossing where the pointer was. */

import type { Edges, PlaneName, Report } from "./api";
import { ColourBar } from "./colour-bar";
import type { Legend } from "./colour-bar";
import { h } from "./elements";
import type { Look } from "./paint";
import { across, sliceOf } from "./plane";
import { cut } from "./regions";
import { Stage } from "./stage";
import type { StageEvents } from "./stage";
import type { Marks, Slot } from "./view";
import { Viewport } from "./viewport";
import type { Box, Grid, Voxel } from "./viewport";
import type { Volume } from "./volume";

/** Where the planes cross, in voxels; `slice` is the position in the stack. */
export interface Crossing extends Voxel {
  position: number;
}

/** Which picture of a plane is seen where planes cross so. */
function pictureOf(plane: PlaneName, { position, row, column }: Crossing): number {
  return { slices: position, rows: row, columns: column }[plane];
}

/** Why a result has no planes across its slices, in words, or null: it has.
 *
 * `given`: who sent the scan said how large its voxels are, slices next to each other. Those of a
 * volume do lie so.
 */
export function noPlanes(summary: Report, given: boolean): string | null {
  const { slices, image } = summary;
  if (slices.length < 2) return "There is one slice only.";
  const together = slices.every(({ slice }, at) => slice === (slices[0]?.slice ?? 0) + at);
  if (!together) return "The slices do not lie side by side.";
  if (!image?.pixel_mm || !image.slice_mm) return "The scan does not say how large its voxels are.";
  if (!slices[0]?.edges && !given && !summary.volume) return "The scan does not say where its slices lie.";
  return null;
}

const AXES: Record<string, string> = { R: "x", L: "x", A: "y", P: "y", F: "z", H: "z" };
const NAMES: Record<string, string> = { xy: "Axial", xz: "Coronal", yz: "Sagittal" };

/** What radiologists call a plane with these edges. */
function planeName({ left, top }: Edges): string {
  const axes = [left, top].map((side) => AXES[side.charAt(0)] ?? "").sort().join("");
  return NAMES[axes] ?? "";
}

/** What the planes take from the page. */
export interface PlanesEvents {
  crossed: (to: Crossing) => void;
  marked: StageEvents["marked"];
  /** The last picture of a plane that regions reach through from this one, by its number, or null. */
  reach: (plane: PlaneName, number: number) => number | null;
}

export class Planes {
  readonly element: HTMLElement;
  readonly stages: Stage[];
  /** Heads, fronts and right sides are at the top, as in an atlas. */
  readonly lastOnTop: boolean;
  private readonly bar = new ColourBar();
  private readonly planes: Record<PlaneName, Stage>;
  private readonly sizes: { slices: number; rows: number; columns: number };
  private readonly first: number;
  private active: PlaneName = "slices";

  constructor(
    summary: Report,
    private readonly marks: Marks,
    private readonly cross: () => Crossing,
    private readonly events: PlanesEvents,
  ) {
    const { image } = summary;
    const [rows, columns] = image?.shape ?? [1, 1];
    const [high, wide] = image?.pixel_mm ?? [1, 1];
    const thick = image?.slice_mm ?? 1;
    const slices = summary.slices.length;
    this.sizes = { slices, rows, columns };
    this.first = summary.slices[0]?.slice ?? 0;
    const none = { top: "", bottom: "", left: "", right: "" };
    const edges = summary.slices[0]?.edges ?? none;
    const sides = image?.slice_sides ?? null;
    this.lastOnTop = sides !== null && /^[HAR]/.test(sides[1]);
    const [upper, lower] = sides === null ? ["", ""] : this.lastOnTop ? [sides[1], sides[0]] : sides;
    const upright = (left: string, right: string) => ({ top: upper, bottom: lower, left, right });
    const upward = this.lastOnTop;
    this.planes = {
      slices: this.stage("slices", { rows, columns, pixel: [high, wide] }, edges),
      rows: this.stage(
        "rows",
        { rows: slices, columns, pixel: [thick, wide], upward },
        upright(edges.left, edges.right),
      ),
      columns: this.stage(
        "columns",
        { rows: slices, columns: rows, pixel: [thick, high], upward },
        upright(edges.top, edges.bottom),
      ),
    };
    this.stages = Object.values(this.planes);
    this.element = h(
      "div",
      { class: "pane planes" },
      h("div", { class: "plane-grid" }, ...this.stages.map(({ element }) => element)),
      h("div", { class: "bars" }, this.bar.element),
    );
  }

  /** The one that was pressed last. */
  get chosen(): Stage {
    return this.planes[this.active];
  }

  show(volume: Volume, look: Look, legend: Legend, at: Crossing, smooth: boolean): void {
    const { slices, rows, columns } = this.planes;
    const { position: row } = at;
    slices.crossing = { row: at.row, column: at.column };
    slices.show([{ plane: sliceOf(volume, row), look }], smooth);
    rows.crossing = { row, column: at.column };
    rows.show([{ plane: across(volume, "rows", at.row), look }], smooth);
    columns.crossing = { row, column: at.row };
    columns.show([{ plane: across(volume, "columns", at.column), look }], smooth);
    this.bar.show(legend);
    this.element.dataset.cross = `${row},${at.row},${at.column}`;
  }

  /** The boxes of regions of other planes in the picture of a plane that is seen. */
  extents(plane: PlaneName): [Slot, Box][] {
    const at = pictureOf(plane, this.cross());
    const found: [Slot, Box][] = [];
    for (const slot of ["A", "B"] as const) {
      const region = this.marks[slot];
      if (region === null || region.plane === plane) continue;
      const box = cut(region, this.reach(region.plane), plane, at);
      if (box !== null) found.push([slot, box]);
    }
    return found;
  }

  /** The first and the last picture of a plane that its regions reach through. */
  private reach(plane: PlaneName): [first: number, last: number] {
    const at = pictureOf(plane, this.cross());
    const offset = plane === "slices" ? this.first : 0;
    return [at, (this.events.reach(plane, at + offset) ?? at + offset) - offset];
  }

  private stage(plane: PlaneName, grid: Grid, sides: Edges): Stage {
    const { marked } = this.events;
    const turn = (by: number) => {
      const at = this.cross();
      const moved = {
        slices: { position: at.position + by },
        rows: { row: at.row + by },
        columns: { column: at.column + by },
      };
      this.go(moved[plane]);
    };
    const crossed = ({ row, column }: Voxel) => {
      const moved = {
        slices: { row, column },
        rows: { position: row, column },
        columns: { position: row, row: column },
      };
      this.go(moved[plane]);
    };
    const stage: Stage = new Stage(new Viewport(grid), this.marks, true, {
      chosen: () => (this.active = plane),
      windowDragged: () => undefined,
      sliceTurned: turn,
      marked,
      pointed: () => undefined,
      placed: () => stage.repaint(),
      crossed,
    }, plane);
    const words = planeName(sides) || (plane === "slices" ? "Slice" : "Across the slices");
    stage.name(sides);
    stage.extents = () => this.extents(plane);
    stage.element.append(h("p", { class: "corner" }, h("strong", {}, words)));
    stage.element.classList.add("plane");
    stage.element.dataset.plane = plane;
    const press = "Press on it to move where the planes cross, or draw a region on it.";
    stage.element.setAttribute("aria-label", `${words}. ${press}`);
    return stage;
  }

  /** Let the planes cross elsewhere, inside the stack. */
  private go(change: Partial<Crossing>): void {
    const { position, row, column } = { ...this.cross(), ...change };
    const inside = (value: number, count: number) =>
      Math.min(count - 1, Math.max(0, Math.round(value)));
    const { slices, rows, columns } = this.sizes;
    this.events.crossed({
      position: inside(position, slices),
      row: inside(row, rows),
      column: inside(column, columns),
    });
  }
}
