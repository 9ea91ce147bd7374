/** What is chosen on the page with the pictures, and the same as an address that can be sent. */

import type { Picture, PlaneName } from "./api";
import type { Region } from "./regions";
import type { Voxel } from "./viewport";
import type { Window } from "./volume";

export type Slot = "A" | "B";

/** What one pane shows. */
export interface Choice {
  picture: string;
  /** Id of another reconstruction of the same scan; empty: the page's own. */
  result: string;
  /** Less what the first pane shows. */
  minus: boolean;
}

/** A line across a slice: a ruler, and where a profile is taken. */
export interface Line {
  from: Voxel;
  to: Voxel;
}

/** What was drawn on the slices, or across them; it stays where it is when the slice changes. */
export interface Marks {
  A: Region | null;
  B: Region | null;
  line: Line | null;
}

export interface View {
  /** Index of the slice in the scan. */
  slice: number;
  /** How many panes are seen; 0: three planes through the stack. */
  count: 0 | 1 | 2 | 3 | 4;
  panes: [Choice, Choice, Choice, Choice];
  sample: number;
  overlay: string | null;
  opacity: number;
  smooth: boolean;
  /** Ends of the windows that were chosen; the others are automatic. */
  windows: Map<string, Window>;
  marks: Marks;
  zoom: number;
  /** What lies in the middle; null: the middle of the slice. */
  centre: Voxel | null;
  /** Where the planes cross. */
  cross: Voxel | null;
}

/** The view that a page begins with. */
export function firstView(slice: number): View {
  const pane = (picture: string): Choice => ({ picture, result: "", minus: false });
  return {
    slice,
    count: 1,
    panes: [pane("mean"), pane("std"), pane("coarse"), pane("sample")],
    sample: 0,
    overlay: null,
    opacity: 0.7,
    smooth: true,
    windows: new Map(),
    marks: { A: null, B: null, line: null },
    zoom: 1,
    centre: null,
    cross: null,
  };
}

/** The picture that is chosen, or the first where none has that name. */
export function pictureOf(pictures: Picture[], { picture }: Choice): Picture {
  return (pictures.find(({ name }) => name === picture) ?? pictures[0]) as Picture;
}

const NAME = /^[a-z-]{1,32}$/;
const ID = /^[A-Za-z0-9._-]{1,64}$/;
const REGION = /^(?:(rows|columns)-)?([a-z]+):(.*)$/;
const PANE = /^(-?)([a-z][a-z-]{0,31})(?:@([A-Za-z0-9._-]{1,64}))?$/;

/** What differs from the first view, as the query of an address. */
export function toQuery(view: View, first: View): URLSearchParams {
  const query = new URLSearchParams();
  const put = (name: string, value: string, usual: string) => {
    if (value !== usual) query.set(name, value);
  };
  put("slice", String(view.slice), String(first.slice));
  put("layout", view.count === 0 ? "planes" : String(view.count), "1");
  const panes = (of: View) => of.panes.slice(0, Math.max(1, view.count)).map(paneText).join(",");
  put("panes", panes(view), panes(first));
  put("sample", String(view.sample), "0");
  put("overlay", view.overlay ?? "", "");
  put("opacity", String(Math.round(100 * view.opacity)), String(Math.round(100 * first.opacity)));
  put("pixels", view.smooth ? "" : "plain", "");
  for (const [name, { low, high }] of view.windows) query.set(`window.${name}`, numbers(low, high));
  for (const slot of ["A", "B"] as const) {
    const region = view.marks[slot];
    if (region !== null) query.set(slot, regionText(region));
  }
  const { line, } = view.marks;
  if (line !== null) query.set("line", voxels(line.from, line.to));
  if (view.zoom !== 1 || view.centre !== null) {
    const { row, column } = view.centre ?? { row: Number.NaN, column: Number.NaN };
    query.set("at", numbers(view.zoom, row, column));
  }
  if (view.cross !== null) query.set("cross", voxels(view.cross));
  return query;
}

/** The view that an address asks for; what it does not say, or says wrongly, is the first view's. */
export function fromQuery(query: URLSearchParams, first: View): View {
  const view = { ...first, windows: new Map<string, Window>(), marks: { ...first.marks } };
  view.slice = whole(query.get("slice")) ?? first.slice;
  const layout = query.get("layout");
  if (layout === "planes") view.count = 0;
  else if (layout !== null && /^[1-4]$/.test(layout)) view.count = Number(layout) as View["count"];
  const asked = (query.get("panes") ?? "").split(",").map(readPane);
  view.panes = first.panes.map((pane, at) => asked[at] ?? { ...pane }) as View["panes"];
  view.panes[0].minus = false;
  view.sample = whole(query.get("sample")) ?? 0;
  const overlay = query.get("overlay") ?? "";
  view.overlay = NAME.test(overlay) ? overlay : null;
  const opacity = whole(query.get("opacity"));
  if (opacity !== null && opacity <= 100) view.opacity = opacity / 100;
  view.smooth = query.get("pixels") !== "plain";
  for (const [name, value] of query) {
    const [low, high] = readNumbers(value);
    const known = name.startsWith("window.") && low !== undefined && high !== undefined;
    if (known && high > low) view.windows.set(name.slice("window.".length), { low, high });
  }
  view.marks.A = readRegion(query.get("A") ?? "");
  view.marks.B = readRegion(query.get("B") ?? "");
  const [from, to] = readVoxels(query.get("line") ?? "");
  if (from && to) view.marks.line = { from, to };
  const [zoom, row, column] = (query.get("at") ?? "").split(",").map(Number);
  if (zoom !== undefined && zoom > 0 && zoom <= 64) view.zoom = zoom;
  if (Number.isFinite(row) && Number.isFinite(column)) {
    view.centre = { row: row as number, column: column as number };
  }
  view.cross = readVoxels(query.get("cross") ?? "")[0] ?? null;
  return view;
}

function paneText({ picture, result, minus }: Choice): string {
  return `${minus ? "-" : ""}${picture}${result ? `@${result}` : ""}`;
}

function readPane(text: string): Choice | null {
  const [, minus, picture, result] = PANE.exec(text) ?? [];
  if (picture === undefined || (result !== undefined && !ID.test(result))) return null;
  return { picture, result: result ?? "", minus: minus === "-" };
}

function regionText(region: Region): string {
  const corners = region.kind === "polygon" ? region.corners : [region.from, region.to];
  const plane = region.plane === "slices" ? "" : `${region.plane}-`;
  return `${plane}${region.kind}:${voxels(...corners)}`;
}

function readRegion(text: string): Region | null {
  const [, across, kind, rest] = REGION.exec(text) ?? [];
  const plane = (across ?? "slices") as PlaneName;
  const corners = readVoxels(rest ?? "");
  if (kind === "polygon") return corners.length >= 3 ? { plane, kind, corners } : null;
  const [from, to] = corners;
  if ((kind !== "rectangle" && kind !== "ellipse") || !from || !to) return null;
  return { plane, kind, from, to };
}

function voxels(...at: Voxel[]): string {
  return numbers(...at.flatMap(({ row, column }) => [row, column]));
}

function readVoxels(text: string): Voxel[] {
  const found = readNumbers(text);
  return Array.from({ length: Math.floor(found.length / 2) }, (_, at) => ({
    row: found[2 * at] as number,
    column: found[2 * at + 1] as number,
  }));
}

function numbers(...values: number[]): string {
  return values.map((value) => (Number.isNaN(value) ? "" : Number(value.toPrecision(5)))).join(",");
}

/** The numbers of a list, or none of them where one is no number. */
function readNumbers(text: string): number[] {
  const found = text.split(",").map((part) => (part === "" ? Number.NaN : Number(part)));
  return found.every((value) => Number.isFinite(value) && Math.abs(value) < 1e30) ? found : [];
}

function whole(text: string | null): number | null {
  return text !== null && /^\d{1,6}$/.test(text) ? Number(text) : null;
}
