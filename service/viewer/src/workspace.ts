/** The page with the pictures: what is chosen, and everything that follows from it. */

import type { Job, Picture, SliceReport, Report } from "./api";
import { Controls } from "./controls";
import { Drawing } from "./drawing";
import { h } from "./elements";
import { keysOf } from "./keys";
import { windowName } from "./layers";
import { layout } from "./layout";
import { LinePanel } from "./line-panel";
import { jobName } from "./notices";
import type { Pane } from "./pane";
import { Panes } from "./panes";
import { noPlanes, Planes } from "./planes";
import { QualityPanel } from "./quality-panel";
import { RegionPanel } from "./region-panel";
import { grown, moved } from "./regions";
import { Saving } from "./saving";
import { shortcutsDialog } from "./shortcuts";
import type { Tool } from "./stage";
import { firstView, fromQuery, pictureOf, toQuery } from "./view";
import type { Choice, Slot, View } from "./view";
import type { Grid } from "./viewport";
import { VoxelPanel } from "./voxel-panel";
import type { Window } from "./volume";

const FLIP = 350;
const NARROWEST = 1e-9;
const SETTLE = 250;

export class Workspace {
  readonly element: HTMLElement;
  private readonly first: View;
  private readonly view: View;
  private readonly grid: Grid;
  private readonly planes: Planes | null;
  private readonly panes: Panes;
  private readonly drawing: Drawing;
  private readonly controls: Controls;
  private readonly regions: RegionPanel;
  private readonly line: LinePanel;
  private readonly voxel: VoxelPanel;
  private readonly quality: QualityPanel;
  private readonly saving: Saving;
  private readonly said = h("p", { class: "said", role: "status" });
  private readonly shortcuts = shortcutsDialog();
  private slot: Slot = "A";
  private tool: Tool = "window";
  private playing: "samples" | "slices" | null = null;
  private timer = 0;
  private settling = 0;

  constructor(
    job: Job,
    private readonly summary: Report,
    private readonly pictures: Picture[],
    private readonly signal: AbortSignal,
  ) {
    const { slices, image } = summary;
    this.first = firstView(slices[Math.floor(slices.length / 2)]?.slice ?? 0);
    this.view = fromQuery(new URLSearchParams(location.search), this.first);
    if (this.position < 0) this.view.slice = this.first.slice;
    this.view.sample = Math.min(this.view.sample, summary.samples - 1);
    const [rows, columns] = image?.shape ?? [1, 1];
    const inMillimetres = Boolean(image?.pixel_mm);
    this.grid = { rows, columns, pixel: image?.pixel_mm ?? [1, 1] };
    const reason = noPlanes(summary, Boolean(job.params.voxel_mm));
    if (reason !== null && this.view.count === 0) this.view.count = 1;
    const marked = (what: Slot | "line", done: boolean) => this.marked(what, done);
    this.planes =
      reason === null
        ? new Planes(summary, this.view.marks, () => this.crossing, {
            crossed: (to) => this.cross(to),
            marked,
            reach: (plane, number) => this.regions.reach(plane, number),
          })
        : null;
    for (const slot of ["A", "B"] as const) {
      const region = this.view.marks[slot];
      if (this.planes === null && region?.plane !== "slices") this.view.marks[slot] = null;
    }
    this.panes = new Panes(this.grid, inMillimetres, slices.length, this.view, this.planes, {
      activated: () => this.say(),
      windowDragged: (pane, width, level) => this.dragWindow(pane, width, level),
      sliceTurned: (by) => this.turn(by),
      marked,
      pointed: (voxel) => this.voxel.ask(this.view.slice, voxel),
      placed: () => this.remember(),
    });
    const own = { id: job.id, name: jobName(job), summary, pictures };
    this.drawing = new Drawing(job, own, this.view, this.panes, {
      crossing: () => this.crossing,
      drawn: () => this.drawn(),
      failed: () => this.stop(),
    }, signal);
    this.controls = new Controls(pictures, summary, reason, {
      pictureChosen: (picture) => this.show(picture),
      overlayChosen: (picture) => this.lay(picture),
      opacityChosen: (value) => this.fade(value),
      sampleChosen: (sample) => this.flipTo(sample),
      sliceChosen: (position) => this.goTo(position),
      windowChosen: (window, ends) => this.setWindow(window, ends),
      resultChosen: (id) => void this.choose({ result: id }),
      minusChosen: (minus) => void this.choose({ minus }),
      layoutChosen: (count) => this.arrange(count),
      automatic: () => this.automatic(),
      played: (what) => this.play(what),
      toolChosen: (tool) => this.use(tool),
      zoomed: (factor) => this.zoom(factor),
      smoothed: () => this.toggleSmooth(),
      saved: () => this.save(),
      linkCopied: () => void this.copyLink(),
      helped: () => this.shortcuts.open(),
    });
    this.regions = new RegionPanel(
      job.id,
      summary,
      (slot) => this.useSlot(slot),
      (slot) => this.panes.all[0]?.stage.set(slot, null),
      () => this.askRegions(),
    );
    this.line = new LinePanel(job.id, this.grid, inMillimetres, () => this.panes.all[0]?.stage.setLine(null));
    this.voxel = new VoxelPanel(job.id, this.grid);
    this.quality = new QualityPanel(job);
    this.saving = new Saving(job, summary, {
      figure: (kind) => this.drawing.figure(kind),
      marks: this.view.marks,
      picture: () => [pictureOf(pictures, this.view.panes[0]), this.view.sample],
    });
    this.element = layout(job, summary, {
      said: this.said,
      column: [this.controls.toolbar, this.drawing.trouble, this.panes.element, this.controls.slices],
      panels: [
        this.controls.choices,
        this.regions.element,
        this.line.element,
        this.voxel.element,
        this.quality.element,
      ],
      dialogs: [this.shortcuts.element, this.saving.element],
    });
    const keys = keysOf(this);
    const listen = (event: KeyboardEvent) => keys(event);
    document.addEventListener("keydown", listen);
    signal.addEventListener("abort", () => {
      document.removeEventListener("keydown", listen);
      clearInterval(this.timer);
      clearTimeout(this.settling);
    });
  }

  /** Draw the first picture; the element must be in the page. */
  async start(): Promise<void> {
    this.use("window");
    this.useSlot("A");
    this.panes.begin();
    void this.findOthers();
    this.sliceChanged();
    await this.draw();
  }

  show(picture: string): void {
    if (picture !== "sample" && this.playing === "samples") this.stop();
    void this.choose({ picture });
  }

  showNumber(at: number): void {
    const picture = this.pictures[at];
    if (picture?.missing === null) this.show(picture.name);
  }

  lay(picture: string | null): void {
    this.view.overlay = picture;
    void this.draw();
  }

  nextOverlay(by: number): void {
    const overlays = this.pictures.filter(({ overlay, missing }) => overlay && missing === null);
    const choices = [null, ...overlays.map(({ name }) => name)];
    const at = choices.indexOf(this.view.overlay) + by;
    this.lay(choices[(at + choices.length) % choices.length] ?? null);
  }

  fade(value: number): void {
    this.view.opacity = Math.min(1, Math.max(0, value));
    void this.draw();
  }

  fadeBy(step: number): void {
    this.fade(this.view.opacity + step);
  }

  goTo(position: number): void {
    const now = Math.min(this.summary.slices.length - 1, Math.max(0, position));
    if (now === this.position) return;
    this.view.slice = this.summary.slices[now]?.slice ?? 0;
    this.sliceChanged();
    void this.draw();
  }

  turn(by: number): void {
    this.goTo(this.position + by);
  }

  flipTo(sample: number): void {
    const count = this.summary.samples;
    this.view.sample = (sample + count) % count;
    const seen = this.view.panes.slice(0, Math.max(1, this.view.count));
    if (!seen.some(({ picture }) => picture === "sample")) this.activeChoice.picture = "sample";
    void this.draw();
  }

  flip(by: number): void {
    // The first press shows the samples; later ones turn them over.
    const seen = this.view.panes.slice(0, Math.max(1, this.view.count));
    const there = seen.some(({ picture }) => picture === "sample");
    this.flipTo(there ? this.view.sample + by : this.view.sample);
  }

  /** Turn samples or slices over and over, or stop. */
  play(what: "samples" | "slices"): void {
    const again = this.playing !== what;
    this.stop();
    if (!again) return;
    this.playing = what;
    const step = () => {
      if (this.drawing.busy) return;
      if (what === "samples") this.flip(1);
      else this.goTo((this.position + 1) % this.summary.slices.length);
    };
    step();
    this.timer = window.setInterval(step, FLIP);
    this.controls.playing(what);
  }

  use(tool: Tool): void {
    this.tool = tool;
    for (const stage of this.panes.stages) stage.use(tool);
    this.controls.tool(tool);
  }

  useSlot(slot: Slot): void {
    this.slot = slot;
    for (const stage of this.panes.stages) {
      stage.slot = slot;
      stage.redraw();
    }
    this.regions.choose(slot);
    const drawing = this.tool === "rectangle" || this.tool === "ellipse" || this.tool === "polygon";
    if (!drawing && slot === "B") this.use("rectangle");
  }

  otherSlot(): void {
    this.useSlot(this.slot === "A" ? "B" : "A");
  }

  placeRegion(): void {
    this.panes.stage.place();
  }

  removeRegion(): void {
    if (this.tool === "line") this.panes.pane.stage.setLine(null);
    else this.panes.pane.stage.set(this.slot, null);
  }

  nudge(rows: number, columns: number, size: boolean): void {
    const region = this.view.marks[this.slot];
    if (region === null) return;
    const down = region.plane !== "slices" && this.planes?.lastOnTop ? -rows : rows;
    const change = size ? grown(region, -rows / 2, columns / 2) : moved(region, down, columns);
    this.panes.pane.stage.set(this.slot, change);
  }

  giveUp(): void {
    for (const stage of this.panes.stages) stage.giveUp();
    this.stop();
  }

  zoom(factor: number): void {
    if (factor === 0) this.panes.pane.stage.fit();
    else this.panes.pane.stage.zoom(factor);
  }

  toggleSmooth(): void {
    this.view.smooth = !this.view.smooth;
    void this.draw();
  }

  automatic(): void {
    this.view.windows.delete(windowName(this.activeChoice));
    if (this.view.overlay) this.view.windows.delete(`over-${this.view.overlay}`);
    void this.draw();
  }

  /** So many pictures side by side; 0: the three planes, where there are some. */
  arrange(count: View["count"]): void {
    if (count === 0 && this.planes === null) return;
    this.view.count = count;
    this.panes.arrange();
    void this.draw();
  }

  nextLayout(): void {
    this.arrange(((this.view.count % 4) + 1) as View["count"]);
  }

  save(): void {
    void this.saving.open();
  }

  async copyLink(): Promise<void> {
    this.remember();
    try {
      await navigator.clipboard.writeText(location.href);
      this.tell("The link to this view is copied.");
    } catch {
      this.tell("The browser does not allow copying: the address of this page is the link.");
    }
  }

  help(): void {
    this.shortcuts.open();
  }

  private tell(words: string): void {
    this.said.textContent = words;
    setTimeout(() => (this.said.textContent = ""), 4000);
  }

  private stop(): void {
    clearInterval(this.timer);
    this.playing = null;
    this.controls.playing(null);
  }

  private get position(): number {
    return this.summary.slices.findIndex(({ slice }) => slice === this.view.slice);
  }

  private get report(): SliceReport {
    return this.summary.slices[this.position] as SliceReport;
  }

  private get activeChoice(): Choice {
    return this.view.panes[this.panes.active] ?? this.view.panes[0];
  }

  private get crossing() {
    const { row, column } = this.view.cross ?? {
      row: Math.floor(this.grid.rows / 2),
      column: Math.floor(this.grid.columns / 2),
    };
    return { position: this.position, row, column };
  }

  /** Change what the active pane shows. */
  private async choose(change: Partial<Choice>): Promise<void> {
    if (this.view.count === 0) Object.assign(this.view.panes[0], change);
    else Object.assign(this.activeChoice, change);
    await this.draw();
  }

  private cross({ position, row, column }: { position: number; row: number; column: number }): void {
    this.view.cross = { row, column };
    if (position !== this.position) this.goTo(position);
    else {
      this.askRegions();
      void this.draw();
    }
    this.voxel.ask(this.view.slice, { row, column });
  }

  private setWindow(name: string, window: Window): void {
    if (!(window.high > window.low)) return;
    this.view.windows.set(name, window);
    void this.draw();
  }

  private dragWindow(pane: Pane, width: number, level: number): void {
    const [layer] = pane.layers;
    if (layer === undefined) return;
    const { low, high } = this.view.windows.get(layer.window) ?? layer.legend.window;
    const span = Math.max((high - low) * Math.exp(2 * width), NARROWEST * Math.abs(high));
    // Upwards is brighter, as at every workstation: the level falls.
    const middle = (low + high) / 2 - level * (high - low);
    this.setWindow(layer.window, { low: middle - span / 2, high: middle + span / 2 });
  }

  private marked(what: Slot | "line", done: boolean): void {
    for (const stage of this.panes.stages) stage.redraw();
    if (!done) return;
    if (what === "line") this.line.ask(this.view.slice, this.view.marks.line);
    else this.askRegions();
    this.remember();
  }

  private askRegions(): void {
    const { row, column } = this.crossing;
    this.regions.ask({ slices: this.view.slice, rows: row, columns: column }, this.view.marks);
    for (const stage of this.panes.stages) stage.redraw(); // how far a region reaches is drawn, too
  }

  private sliceChanged(): void {
    this.quality.show(this.report);
    this.askRegions();
    this.line.ask(this.view.slice, this.view.marks.line);
  }

  /** Keep the view in the address, once it has settled. */
  private remember(): void {
    clearTimeout(this.settling);
    this.settling = window.setTimeout(() => {
      if (this.signal.aborted) return;
      const query = toQuery(this.view, this.first).toString();
      history.replaceState(history.state, "", location.pathname + (query ? `?${query}` : ""));
    }, SETTLE);
  }

  private draw(): Promise<void> {
    return this.drawing.draw();
  }

  private drawn(): void {
    this.say();
    this.remember();
  }

  private say(): void {
    const layers = this.view.count === 0 ? [] : this.panes.pane.layers;
    this.controls.say(this.view, this.position, this.view.count === 0 ? 0 : this.panes.active, layers);
  }

  /** Other results of the same scan can be shown beside this one. */
  private async findOthers(): Promise<void> {
    this.controls.others(await this.drawing.others());
    this.say();
  }
}
