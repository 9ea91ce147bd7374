/** Three planes through a stack of slices, crossing where the pointer was. */

import type { Edges, Report } from "./api";
import { ColourBar } from "./colour-bar";
import type { Legend } from "./colour-bar";
import { h, svg, fill } from "./elements";
import { paint } from "./paint";
import type { Look } from "./paint";
import { across, sliceOf } from "./plane";
import type { Plane } from "./plane";
import { scaleBar } from "./scale-bar";
import { Viewport } from "./viewport";
import type { Voxel } from "./viewport";
import type { Volume } from "./volume";

type Name = "slice" | "row" | "column";

/** Where the planes cross, in voxels; `slice` is the position in the stack. */
export interface Crossing extends Voxel {
  position: number;
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

class One {
  readonly element: HTMLElement;
  readonly viewport: Viewport;
  private readonly canvas = h("canvas", { class: "picture" });
  private readonly drawing = svg("svg", { class: "regions", "aria-hidden": "true" });
  private plane: Plane | null = null;
  private look: Look | null = null;
  private cross: Voxel = { row: 0, column: 0 };
  private smooth = true;

  constructor(
    readonly name: Name,
    rows: number,
    columns: number,
    pixel: [number, number],
    sides: Edges,
    moved: (at: Voxel) => void,
    turned: (by: number) => void,
  ) {
    this.viewport = new Viewport({ rows, columns, pixel });
    const words = planeName(sides) || (name === "slice" ? "Slice" : "Across the slices");
    const edges = (["top", "right", "bottom", "left"] as const).map((side) =>
      h("span", { class: `edge ${side}` }, sides[side]),
    );
    this.element = h(
      "div",
      { class: "stage plane", tabindex: "0", role: "application", "data-plane": name },
      this.canvas,
      this.drawing,
      h("p", { class: "corner" }, h("strong", {}, words)),
      ...edges,
    );
    this.element.setAttribute("aria-label", `${words}. Press on it to move where the planes cross.`);
    const point = (event: PointerEvent) => {
      const frame = this.element.getBoundingClientRect();
      moved(this.viewport.toVoxel({ x: event.clientX - frame.left, y: event.clientY - frame.top }));
    };
    this.element.addEventListener("pointerdown", (event) => {
      this.element.setPointerCapture(event.pointerId);
      point(event);
    });
    this.element.addEventListener("pointermove", (event) => event.buttons && point(event));
    this.element.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        turned(Math.sign(event.deltaY));
      },
      { passive: false },
    );
    new ResizeObserver(() => {
      const { clientWidth: width, clientHeight: height } = this.element;
      if (width === 0 || height === 0) return;
      this.viewport.resize(width, height);
      this.draw();
    }).observe(this.element);
  }

  show(plane: Plane, look: Look, cross: Voxel, smooth: boolean): void {
    Object.assign(this, { plane, look, cross, smooth });
    this.draw();
  }

  private draw(): void {
    const { plane, look, viewport, canvas } = this;
    if (plane === null || look === null) return;
    const ratio = Math.min(2, devicePixelRatio);
    canvas.width = Math.max(1, Math.round(viewport.width * ratio));
    canvas.height = Math.max(1, Math.round(viewport.height * ratio));
    const context = canvas.getContext("2d");
    if (context === null) return;
    const image = context.createImageData(canvas.width, canvas.height);
    paint(image, ratio, viewport, plane, look, this.smooth);
    context.putImageData(image, 0, 0);
    const { x, y } = viewport.toScreen(this.cross);
    const { left, top, width, height } = viewport.frame();
    fill(
      this.drawing,
      svg("path", { class: "crossing", d: `M${left} ${y}h${width}M${x} ${top}v${height}` }),
      ...scaleBar(viewport, true),
    );
  }
}

export class Planes {
  readonly element: HTMLElement;
  private readonly bar = new ColourBar();
  private readonly planes: Record<Name, One>;
  private readonly lastOnTop: boolean;
  private readonly sizes: { slices: number; rows: number; columns: number };

  constructor(
    summary: Report,
    cross: () => Crossing,
    moved: (to: Crossing) => void,
  ) {
    const { image } = summary;
    const [rows, columns] = image?.shape ?? [1, 1];
    const [high, wide] = image?.pixel_mm ?? [1, 1];
    const thick = image?.slice_mm ?? 1;
    const slices = summary.slices.length;
    this.sizes = { slices, rows, columns };
    const none = { top: "", bottom: "", left: "", right: "" };
    const edges = summary.slices[0]?.edges ?? none;
    const sides = image?.slice_sides ?? null;
    // Heads, fronts and right sides are at the top, as in an atlas.
    this.lastOnTop = sides !== null && /^[HAR]/.test(sides[1]);
    const [upper, lower] = sides === null ? ["", ""] : this.lastOnTop ? [sides[1], sides[0]] : sides;
    const upright = (left: string, right: string) => ({ top: upper, bottom: lower, left, right });
    const go = (change: Partial<Crossing>) => moved(this.held({ ...cross(), ...change }));
    const slot = (row: number) => (this.lastOnTop ? slices - 1 - row : row);
    this.planes = {
      slice: new One("slice", rows, columns, [high, wide], edges,
        (at) => go(at), (by) => go({ position: cross().position + by })),
      row: new One("row", slices, columns, [thick, wide],
        upright(edges.left, edges.right),
        (at) => go({ position: slot(at.row), column: at.column }),
        (by) => go({ row: cross().row + by })),
      column: new One("column", slices, rows, [thick, high],
        upright(edges.top, edges.bottom),
        (at) => go({ position: slot(at.row), row: at.column }),
        (by) => go({ column: cross().column + by })),
    };
    const { slice, row, column } = this.planes;
    this.element = h(
      "div",
      { class: "pane planes" },
      h("div", { class: "plane-grid" }, slice.element, row.element, column.element),
      h("div", { class: "bars" }, this.bar.element),
    );
  }

  show(volume: Volume, look: Look, legend: Legend, at: Crossing, smooth: boolean): void {
    const { slice, row, column } = this.planes;
    const { position } = at;
    const place = this.lastOnTop ? this.sizes.slices - 1 - position : position;
    slice.show(sliceOf(volume, position), look, at, smooth);
    const rows = across(volume, "row", at.row, this.lastOnTop);
    row.show(rows, look, { row: place, column: at.column }, smooth);
    const columns = across(volume, "column", at.column, this.lastOnTop);
    column.show(columns, look, { row: place, column: at.row }, smooth);
    this.bar.show(legend);
    this.element.dataset.cross = `${position},${at.row},${at.column}`;
  }

  private held({ position, row, column }: Crossing): Crossing {
    const inside = (value: number, count: number) =>
      Math.min(count - 1, Math.max(0, Math.round(value)));
    const { slices, rows, columns } = this.sizes;
    return {
      position: inside(position, slices),
      row: inside(row, rows),
      column: inside(column, columns),
    };
  }
}
