/** The place where a slice is seen: pointer, wheel, what is drawn on it and written at its edges. */

import type { Edges, PlaneName } from "./api";
import { fill, h, svg } from "./elements";
import type { Layer } from "./layers";
import { extentShape, marksShapes } from "./marks";
import { paint } from "./paint";
import { drawn, moved } from "./regions";
import { scaleBar } from "./scale-bar";
import type { Line, Marks, Slot } from "./view";
import type { Box, Point, Viewport, Voxel } from "./viewport";

export type Tool = "window" | "pan" | "rectangle" | "ellipse" | "polygon" | "line";

export interface StageEvents {
  /** Pointer or focus came here. */
  chosen: () => void;
  /** Dragged with the window tool, in shares of the stage. */
  windowDragged: (width: number, level: number) => void;
  /** The wheel was turned to another slice. */
  sliceTurned: (by: number) => void;
  /** Something was drawn, moved or removed; `done` once the pointer is up. */
  marked: (what: Slot | "line", done: boolean) => void;
  /** The pointer is over this voxel, or over none. */
  pointed: (at: Voxel | null) => void;
  /** Another part of the slice is seen. */
  placed: () => void;
  /** The pointer moved where planes cross; without this, window and place. */
  crossed?: (at: Voxel) => void;
}

const NEAR = 9;
const LONG = 40;
const SHARPEST = 2;

type Drag =
  | { kind: "window" | "pan"; last: Point }
  | { kind: "cross" }
  | { kind: "draw"; from: Voxel }
  | { kind: "move"; slot: Slot; last: Voxel }
  | { kind: "pinch" };

export class Stage {
  readonly element: HTMLElement;
  slot: Slot = "A";
  slices = 1;
  /** Where the pointer is, in whichever pane. */
  cursor: Voxel | null = null;
  /** Where the other planes cross this one. */
  crossing: Voxel | null = null;
  /** The boxes of regions that were drawn in other planes. */
  extents: () => [Slot, Box][] = () => [];
  private tool: Tool = "window";
  private readonly canvas = h("canvas", { class: "picture" });
  private readonly drawing = svg("svg", { class: "regions" });
  private readonly edges = (["top", "right", "bottom", "left"] as const).map((side) => {
    return [side, h("span", { class: `edge ${side}` })] as const;
  });
  private layers: Pick<Layer, "plane" | "look">[] = [];
  private smooth = true;
  private drag: Drag | null = null;
  private corners: Voxel[] | null = null;
  private hover: Voxel | null = null;
  private readonly pointers = new Map<number, Point>();
  private turned = 0;

  constructor(
    readonly viewport: Viewport,
    readonly marks: Marks,
    private readonly inMillimetres: boolean,
    private readonly events: StageEvents,
    private readonly plane: PlaneName = "slices",
  ) {
    this.drawing.setAttribute("aria-hidden", "true");
    this.element = h(
      "div",
      { class: "stage", tabindex: "0", role: "application", "data-tool": this.tool },
      this.canvas,
      this.drawing,
      ...this.edges.map(([, element]) => element),
    );
    this.element.addEventListener("focus", () => events.chosen());
    this.element.addEventListener("pointerdown", (event) => this.down(event));
    this.element.addEventListener("pointermove", (event) => this.move(event));
    this.element.addEventListener("pointerup", (event) => this.up(event));
    this.element.addEventListener("pointercancel", (event) => this.up(event));
    this.element.addEventListener("pointerleave", () => events.pointed(null));
    this.element.addEventListener("dblclick", () => this.closePolygon());
    this.element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    new ResizeObserver(() => this.resized()).observe(this.element);
  }

  /** Show these, the later ones on top. */
  show(layers: Pick<Layer, "plane" | "look">[], smooth: boolean): void {
    this.layers = layers;
    this.smooth = smooth;
    this.repaint();
  }

  /** The picture anew, as large as the stage is. */
  repaint(): void {
    const { canvas, viewport } = this;
    const ratio = Math.min(SHARPEST, devicePixelRatio);
    const width = Math.max(1, Math.round(viewport.width * ratio));
    const height = Math.max(1, Math.round(viewport.height * ratio));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext("2d");
    if (context === null) return;
    const image = context.createImageData(width, height);
    for (const { plane, look } of this.layers) {
      paint(image, ratio, viewport, plane, look, this.smooth);
    }
    context.putImageData(image, 0, 0);
    this.redraw();
  }

  use(tool: Tool): void {
    this.tool = tool;
    this.corners = null;
    this.element.dataset.tool = tool;
    this.redraw();
  }

  /** Which sides of the patient the edges are, where the scan says so. */
  name(edges: Edges | null): void {
    for (const [side, element] of this.edges) element.textContent = edges?.[side] ?? "";
  }

  zoom(factor: number, at?: Point): void {
    const middle = { x: this.viewport.width / 2, y: this.viewport.height / 2 };
    this.viewport.zoomAt(factor, at ?? middle);
    this.events.placed();
  }

  fit(): void {
    this.viewport.reset();
    this.events.placed();
  }

  /** Give up what is being drawn. */
  giveUp(): void {
    this.corners = null;
    if (this.drag?.kind === "draw") this.drag = null;
    this.redraw();
  }

  /** Put a region of the chosen shape in the middle of what is seen; or close the polygon. */
  place(): void {
    if (this.corners !== null) {
      this.closePolygon();
      return;
    }
    const { row, column } = this.viewport.centre;
    const { rows, columns } = this.viewport.grid;
    const size = Math.max(2, Math.min(rows, columns) / 12);
    const [tall, wide] = [Math.min(size, rows / 2), Math.min(size, columns / 2)];
    this.set(this.slot, {
      plane: this.plane,
      kind: this.tool === "ellipse" ? "ellipse" : "rectangle",
      from: { row: row - tall, column: column - wide },
      to: { row: row + tall, column: column + wide },
    });
  }

  set(slot: Slot, region: Marks["A"], done = true): void {
    this.marks[slot] = region;
    this.events.marked(slot, done);
  }

  setLine(line: Line | null, done = true): void {
    this.marks.line = line;
    this.events.marked("line", done);
  }

  redraw(): void {
    const { viewport, inMillimetres, plane } = this;
    const shapes: Node[] = this.extents().map(([slot, box]) => extentShape(slot, box, viewport));
    if (this.crossing !== null) {
      const { x, y } = viewport.toScreen(this.crossing);
      const { left, top, width, height } = viewport.frame();
      shapes.push(svg("path", { class: "crossing", d: `M${left} ${y}h${width}M${x} ${top}v${height}` }));
    }
    shapes.push(...marksShapes(this.marks, viewport, this.slot, inMillimetres, plane));
    if (this.corners !== null) {
      const open = this.hover === null ? this.corners : [...this.corners, this.hover];
      const places = open.map((corner) => viewport.toScreen(corner));
      const points = places.map(({ x, y }) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" ");
      shapes.push(svg("polyline", { class: `outline ${this.slot}`, points }));
      for (const { x, y } of places.slice(0, this.corners.length)) {
        shapes.push(svg("circle", { class: `corner ${this.slot}`, cx: x, cy: y, r: 3.5 }));
      }
    }
    if (this.cursor !== null) {
      const { x, y } = viewport.toScreen(this.cursor);
      const lines = `M${x - 9} ${y}h6m6 0h6M${x} ${y - 9}v6m0 6v6`;
      shapes.push(svg("path", { class: "cursor", d: lines }));
    }
    shapes.push(...scaleBar(viewport, inMillimetres));
    fill(this.drawing, ...shapes);
  }

  private resized(): void {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (width === 0 || height === 0) return;
    this.viewport.resize(width, height);
    this.events.placed();
  }

  /** It always shows the whole picture, and the pointer moves where planes cross. */
  private get whole(): boolean {
    return this.events.crossed !== undefined;
  }

  private at(event: MouseEvent): Point {
    const frame = this.element.getBoundingClientRect();
    return { x: event.clientX - frame.left, y: event.clientY - frame.top };
  }

  private down(event: PointerEvent): void {
    const at = this.at(event);
    const voxel = this.viewport.toVoxel(at);
    this.pointers.set(event.pointerId, at);
    this.events.chosen();
    this.element.setPointerCapture(event.pointerId);
    if (this.pointers.size === 2 && !this.whole) {
      this.drag = { kind: "pinch" };
      return;
    }
    const held = (event.target as Element).getAttribute("data-slot") as Slot | null;
    const rules = this.tool === "line" && this.plane === "slices";
    const draws = this.tool === "rectangle" || this.tool === "ellipse" || rules;
    if ((event.button === 1 || event.shiftKey) && !this.whole) this.drag = { kind: "pan", last: at };
    else if (event.button !== 0) return;
    else if (this.tool === "polygon") this.corner(at, voxel);
    else if (held !== null) this.drag = { kind: "move", slot: held, last: voxel };
    else if (draws) this.drag = { kind: "draw", from: voxel };
    else if (this.whole) this.cross(voxel);
    else this.drag = { kind: this.tool === "pan" ? "pan" : "window", last: at };
    if (event.button === 1) event.preventDefault();
    this.element.focus({ preventScroll: true });
  }

  private move(event: PointerEvent): void {
    const at = this.at(event);
    const voxel = this.viewport.toVoxel(at);
    this.hover = voxel;
    this.events.pointed(voxel);
    const { drag } = this;
    if (drag?.kind === "pinch") {
      this.pinch(event.pointerId, at);
    } else if (drag?.kind === "cross") {
      this.cross(voxel);
    } else if (drag?.kind === "pan") {
      this.viewport.pan(at.x - drag.last.x, at.y - drag.last.y);
      drag.last = at;
      this.events.placed();
    } else if (drag?.kind === "window") {
      const { width, height } = this.viewport;
      this.events.windowDragged((at.x - drag.last.x) / width, (drag.last.y - at.y) / height);
      drag.last = at;
    } else if (drag?.kind === "draw" && this.tool === "line") {
      this.setLine({ from: drag.from, to: voxel }, false);
    } else if (drag?.kind === "draw" && (this.tool === "rectangle" || this.tool === "ellipse")) {
      const { plane, tool: kind } = this;
      this.set(this.slot, { plane, kind, from: drag.from, to: voxel }, false);
    } else if (drag?.kind === "move") {
      const region = this.marks[drag.slot];
      if (region === null) return;
      const by = { row: voxel.row - drag.last.row, column: voxel.column - drag.last.column };
      drag.last = voxel;
      this.set(drag.slot, moved(region, by.row, by.column), false);
    } else if (this.corners !== null) {
      this.redraw();
    }
  }

  private up(event: PointerEvent): void {
    this.pointers.delete(event.pointerId);
    const { drag } = this;
    this.drag = null;
    if (drag?.kind === "draw" && this.tool === "line") {
      const { line } = this.marks;
      const length = line === null ? 0 : distance(line.from, line.to);
      this.setLine(length >= 1 ? line : null);
    } else if (drag?.kind === "draw") {
      const region = this.marks[this.slot];
      this.set(this.slot, region !== null && drawn(region) ? region : null);
    } else if (drag?.kind === "move") {
      this.events.marked(drag.slot, true);
    }
  }

  private cross(at: Voxel): void {
    this.drag = { kind: "cross" };
    this.events.crossed?.(at);
  }

  private pinch(pointer: number, at: Point): void {
    const before = this.pointers.get(pointer);
    const other = [...this.pointers].find(([id]) => id !== pointer)?.[1];
    if (before === undefined || other === undefined) return;
    const distance = (a: Point) => Math.hypot(a.x - other.x, a.y - other.y);
    this.viewport.pan((at.x - before.x) / 2, (at.y - before.y) / 2);
    this.pointers.set(pointer, at);
    const middle = { x: (at.x + other.x) / 2, y: (at.y + other.y) / 2 };
    this.zoom(distance(at) / Math.max(1, distance(before)), middle);
  }

  private corner(at: Point, voxel: Voxel): void {
    const first = this.corners?.[0];
    if (this.corners !== null && this.corners.length >= 3 && first !== undefined) {
      const start = this.viewport.toScreen(first);
      if (Math.hypot(at.x - start.x, at.y - start.y) < NEAR) {
        this.closePolygon();
        return;
      }
    }
    this.corners = [...(this.corners ?? []), voxel];
    this.redraw();
  }

  private closePolygon(): void {
    if (this.corners === null) return;
    // The second click of a double click is a corner on top of the last one.
    const corners = this.corners.filter((corner, at, all) => {
      const before = all[at - 1];
      return (
        before === undefined ||
        Math.hypot(corner.row - before.row, corner.column - before.column) > 0.05
      );
    });
    this.corners = null;
    if (corners.length >= 3) this.set(this.slot, { plane: this.plane, kind: "polygon", corners });
    else this.redraw();
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    if ((event.ctrlKey || event.metaKey || this.slices === 1) && !this.whole) {
      this.zoom(Math.exp(-event.deltaY / 400), this.at(event));
      return;
    }
    this.turned += event.deltaY;
    const by = Math.trunc(this.turned / LONG);
    this.turned -= by * LONG;
    if (by !== 0) this.events.sliceTurned(Math.sign(by));
  }
}

function distance(a: Voxel, b: Voxel): number {
  return Math.hypot(a.row - b.row, a.column - b.column);
}
