/** The page with the pictures: what is chosen, and everything that follows from it. */

import { api } from "./api";
import type { Job, Picture, SliceReport, Report } from "./api";
import { Controls, sliceWords } from "./controls";
import { fill, h } from "./elements";
import { asPng, asSvg, figure } from "./figure";
import { keysOf } from "./keys";
import { Layers, windowName } from "./layers";
import type { Source } from "./layers";
import { LinePanel } from "./line-panel";
import { jobName, problemBox, stateBadge } from "./notices";
import { look } from "./paint";
import { Pane } from "./pane";
import { noPlanes, Planes } from "./planes";
import { QualityPanel } from "./quality-panel";
import { RegionPanel } from "./region-panel";
import { grown, moved } from "./regions";
import { Saving } from "./saving";
import { shortcutsDialog } from "./shortcuts";
import type { Stage, Tool } from "./stage";
import { verdictBadge } from "./verdict";
import { firstView, fromQuery, toQuery } from "./view";
import type { Choice, Slot, View } from "./view";
import type { Grid, Voxel } from "./viewport";
import { VoxelPanel } from "./voxel-panel";
import type { Window } from "./volume";
import { Volumes } from "./volumes";

const FLIP = 350;
const NARROWEST = 1e-9;
const SETTLE = 250;

export class Workspace {
  readonly element: HTMLElement;
  private readonly first: View;
  private readonly view: View;
  private readonly grid: Grid;
  private readonly inMillimetres: boolean;
  private readonly panes: Pane[];
  private readonly planes: Planes | null;
  private readonly holder = h("div", { class: "panes" });
  private readonly controls: Controls;
  private readonly regions: RegionPanel;
  private readonly line: LinePanel;
  private readonly voxel: VoxelPanel;
  private readonly quality: QualityPanel;
  private readonly saving: Saving;
  private readonly trouble = h("div", { class: "trouble", "aria-live": "assertive" });
  private readonly said = h("p", { class: "said", role: "status" });
  private readonly shortcuts = shortcutsDialog();
  private readonly sources: Map<string, Source>;
  private readonly volumes = new Volumes();
  private readonly layers: Layers;
  private active = 0;
  private slot: Slot = "A";
  private tool: Tool = "window";
  private playing: "samples" | "slices" | null = null;
  private timer = 0;
  private settling = 0;
  private drawing = false;
  private waiting = false;
  private placing = false;

  constructor(
    private readonly job: Job,
    private readonly summary: Report,
    private readonly pictures: Picture[],
    private readonly signal: AbortSignal,
  ) {
    const { slices, image } = summary;
    this.first = firstView(slices[Math.floor(slices.length / 2)]?.slice ?? 0);
    this.view = fromQuery(new URLSearchParams(location.search), this.first);
    if (this.position < 0) this.view.slice = this.first.slice;
    this.view.sample = Math.min(this.view.sample, summary.samples - 1);
    const name = jobName(job);
    this.sources = new Map([["", { id: job.id, name, summary, pictures }]]);
    this.layers = new Layers(this.sources, this.volumes);
    const [rows, columns] = image?.shape ?? [1, 1];
    this.inMillimetres = Boolean(image?.pixel_mm);
    this.grid = { rows, columns, pixel: image?.pixel_mm ?? [1, 1] };
    this.panes = this.view.panes.map((_, at) => this.makePane(at));
    const reason = noPlanes(summary, Boolean(job.params.voxel_mm));
    if (reason !== null && this.view.count === 0) this.view.count = 1;
    this.planes =
      reason === null
        ? new Planes(summary, this.view.marks, () => this.crossing, {
            crossed: (to) => this.cross(to),
            marked: (what, done) => this.marked(what, done),
            reach: (plane, number) => this.regions.reach(plane, number),
          })
        : null;
    for (const slot of ["A", "B"] as const) {
      const region = this.view.marks[slot];
      if (this.planes === null && region?.plane !== "slices") this.view.marks[slot] = null;
    }
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
      (slot) => this.panes[0]?.stage.set(slot, null),
      () => this.askRegions(),
    );
    this.line = new LinePanel(job.id, this.grid, this.inMillimetres, () => this.panes[0]?.stage.setLine(null));
    this.voxel = new VoxelPanel(job.id, this.grid);
    this.quality = new QualityPanel(job);
    this.saving = new Saving(job, summary, {
      figure: (kind) => this.figure(kind),
      marks: this.view.marks,
      picture: () => [this.pictureOf(this.view.panes[0]), this.view.sample],
    });
    this.element = this.layout();
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
    const { zoom, centre } = this.view;
    for (const { stage } of this.panes) {
      stage.viewport.zoom = zoom;
      if (centre !== null) stage.viewport.centre = { ...centre };
    }
    this.placePanes();
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
      if (this.drawing) return;
      if (what === "samples") this.flip(1);
      else this.goTo((this.position + 1) % this.summary.slices.length);
    };
    step();
    this.timer = window.setInterval(step, FLIP);
    this.controls.playing(what);
  }

  use(tool: Tool): void {
    this.tool = tool;
    for (const stage of this.stages) stage.use(tool);
    this.controls.tool(tool);
  }

  useSlot(slot: Slot): void {
    this.slot = slot;
    for (const stage of this.stages) {
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
    this.stage.place();
  }

  removeRegion(): void {
    if (this.tool === "line") this.pane.stage.setLine(null);
    else this.pane.stage.set(this.slot, null);
  }

  nudge(rows: number, columns: number, size: boolean): void {
    const region = this.view.marks[this.slot];
    if (region === null) return;
    const down = region.plane !== "slices" && this.planes?.lastOnTop ? -rows : rows;
    const change = size ? grown(region, -rows / 2, columns / 2) : moved(region, down, columns);
    this.pane.stage.set(this.slot, change);
  }

  giveUp(): void {
    for (const stage of this.stages) stage.giveUp();
    this.stop();
  }

  zoom(factor: number): void {
    if (factor === 0) this.pane.stage.fit();
    else this.pane.stage.zoom(factor);
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
    this.active = Math.min(this.active, Math.max(0, count - 1));
    this.placePanes();
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

  private get pane(): Pane {
    return this.panes[this.active] as Pane;
  }

  private get stages(): Stage[] {
    return [...this.panes.map(({ stage }) => stage), ...(this.planes?.stages ?? [])];
  }

  /** The one that was pressed last. */
  private get stage(): Stage {
    return this.view.count === 0 && this.planes ? this.planes.chosen : this.pane.stage;
  }

  private get activeChoice(): Choice {
    return this.view.panes[this.active] ?? this.view.panes[0];
  }

  private get crossing() {
    const { row, column } = this.view.cross ?? {
      row: Math.floor(this.grid.rows / 2),
      column: Math.floor(this.grid.columns / 2),
    };
    return { position: this.position, row, column };
  }

  private pictureOf({ picture }: Choice): Picture {
    return (this.pictures.find(({ name }) => name === picture) ?? this.pictures[0]) as Picture;
  }

  private makePane(at: number): Pane {
    const pane: Pane = new Pane(this.grid, this.view.marks, this.inMillimetres, {
      chosen: () => this.activate(at),
      windowDragged: (width, level) => this.dragWindow(at, width, level),
      sliceTurned: (by) => this.turn(by),
      marked: (what, done) => this.marked(what, done),
      pointed: (voxel) => this.point(at, voxel),
      placed: () => this.placed(pane),
    });
    pane.stage.slices = this.summary.slices.length;
    pane.stage.extents = () => this.planes?.extents("slices") ?? [];
    return pane;
  }

  private activate(at: number): void {
    if (this.active === at) return;
    this.active = at;
    this.placePanes();
    this.say();
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

  private dragWindow(at: number, width: number, level: number): void {
    const layer = this.panes[at]?.layers[0];
    if (layer === undefined) return;
    const { low, high } = this.view.windows.get(layer.window) ?? layer.legend.window;
    const span = Math.max((high - low) * Math.exp(2 * width), NARROWEST * Math.abs(high));
    // Upwards is brighter, as at every workstation: the level falls.
    const middle = (low + high) / 2 - level * (high - low);
    this.setWindow(layer.window, { low: middle - span / 2, high: middle + span / 2 });
  }

  private marked(what: Slot | "line", done: boolean): void {
    for (const stage of this.stages) stage.redraw();
    if (!done) return;
    if (what === "line") this.line.ask(this.view.slice, this.view.marks.line);
    else this.askRegions();
    this.remember();
  }

  private askRegions(): void {
    const { row, column } = this.crossing;
    this.regions.ask({ slices: this.view.slice, rows: row, columns: column }, this.view.marks);
    for (const stage of this.stages) stage.redraw(); // how far a region reaches is drawn, too
  }

  private point(at: number, voxel: Voxel | null): void {
    this.panes.slice(0, this.view.count).forEach((pane, other) => pane.point(voxel, other === at));
    this.voxel.ask(this.view.slice, voxel);
  }

  /** One pane shows another part of the slice: so do the others. */
  private placed(from: Pane): void {
    const { zoom, centre } = from.stage.viewport;
    for (const { stage } of this.panes) {
      stage.viewport.zoom = zoom;
      stage.viewport.centre = { ...centre };
    }
    const home = (this.grid.rows - 1) / 2 === centre.row && (this.grid.columns - 1) / 2 === centre.column;
    Object.assign(this.view, { zoom, centre: home ? null : { ...centre } });
    if (this.placing) return;
    this.placing = true;
    requestAnimationFrame(() => {
      this.placing = false;
      for (const pane of this.panes.slice(0, this.view.count)) pane.stage.repaint();
      this.remember();
    });
  }

  private sliceChanged(): void {
    this.quality.show(this.report);
    this.askRegions();
    this.line.ask(this.view.slice, this.view.marks.line);
  }

  /** Put the panes that are seen into the page. */
  private placePanes(): void {
    const { count } = this.view;
    const seen = count === 0 && this.planes ? [this.planes] : this.panes.slice(0, count);
    const there = [...this.holder.children];
    const wanted = seen.map(({ element }) => element);
    if (there.length !== wanted.length || there.some((one, at) => one !== wanted[at])) {
      fill(this.holder, ...wanted);
    }
    this.holder.dataset.count = String(count);
    this.panes.forEach(({ element }, at) => {
      element.classList.toggle("active", count > 1 && at === this.active);
    });
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

  /** Draw what is chosen; what is chosen meanwhile is drawn after it, the latest only. */
  private async draw(): Promise<void> {
    if (this.drawing) {
      this.waiting = true;
      return;
    }
    this.drawing = true;
    this.holder.setAttribute("aria-busy", "true");
    try {
      do {
        this.waiting = false;
        await this.drawOnce();
      } while (this.waiting && !this.signal.aborted);
      fill(this.trouble);
    } catch (error) {
      if (!this.signal.aborted) {
        this.stop();
        fill(this.trouble, problemBox(error, () => void this.draw()));
      }
    } finally {
      this.drawing = false;
      this.holder.removeAttribute("aria-busy");
    }
  }

  private async drawOnce(): Promise<void> {
    if (this.view.count === 0) await this.drawPlanes();
    else await Promise.all(this.panes.slice(0, this.view.count).map((pane, at) => this.drawPane(pane, at)));
    if (this.signal.aborted) return;
    this.say();
    this.remember();
  }

  private async drawPane(pane: Pane, at: number): Promise<void> {
    const choice = { ...(this.view.panes[at] as Choice) };
    const { view } = this;
    await this.known(choice.result);
    const { element } = pane.stage;
    try {
      const shown = await this.layers.pane(view, choice);
      if (this.signal.aborted) return;
      const words = sliceWords(view.slice, this.position, this.summary.slices.length);
      pane.show(shown, view, { slice: words, edges: this.report.edges ?? null });
      element.dataset.overlay = shown.overlay === null ? "" : (view.overlay ?? "");
    } catch (error) {
      // What one pane lacks is no reason not to draw the others.
      if (at === 0 && view.count === 1 && this.pictureOf(choice).missing === null) throw error;
      pane.refuse(error instanceof Error ? error.message : String(error));
      element.dataset.overlay = "";
    }
    element.dataset.picture = choice.picture;
    element.dataset.result = choice.result;
    element.dataset.minus = String(choice.minus);
    element.dataset.slice = String(view.slice);
    element.dataset.sample = String(view.sample);
  }

  private async drawPlanes(): Promise<void> {
    const choice = { ...this.view.panes[0], minus: false };
    await this.known(choice.result);
    const { base } = await this.layers.pane({ ...this.view, overlay: null }, choice);
    const { volume } = await this.layers.volume(this.view, choice);
    const { legend } = base;
    const drawn = look(legend.colours, legend.window);
    this.planes?.show(volume, drawn, legend, this.crossing, this.view.smooth);
  }

  private say(): void {
    const layers = this.view.count === 0 ? [] : this.pane.layers;
    this.controls.say(this.view, this.position, this.view.count === 0 ? 0 : this.active, layers);
  }

  /** Other results of the same scan can be shown beside this one. */
  private async findOthers(): Promise<void> {
    const query = { state: ["succeeded" as const], limit: 200 };
    const { items } = await api.jobs(query, this.signal).catch(() => ({ items: [] as Job[] }));
    const { rows, columns } = this.grid;
    const same = items.filter(({ id, scan, summary }) => {
      const [r, c] = summary?.image?.shape ?? [0, 0];
      return id !== this.job.id && scan.sha256 === this.job.scan.sha256 && r === rows && c === columns;
    });
    this.controls.others(same.map((job) => [job.id, `${jobName(job)} (${job.preset})`]));
    this.say();
  }

  private async known(id: string): Promise<void> {
    if (this.sources.has(id)) return;
    const [job, { items }] = await Promise.all([api.job(id), api.pictures(id)]);
    if (job.summary === null) throw new Error("that reconstruction has no result");
    if (job.scan.sha256 !== this.job.scan.sha256) throw new Error("that result is of another scan");
    this.sources.set(id, { id, name: jobName(job), summary: job.summary, pictures: items });
  }

  private async figure(kind: "png" | "svg"): Promise<Blob> {
    const { job, summary, view } = this;
    const shown = this.view.count === 0 ? this.panes.slice(0, 1) : this.panes.slice(0, view.count);
    if (view.count === 0) await this.drawPane(this.panes[0] as Pane, 0);
    const panels = shown.map(({ title, layers, stage }) => ({ title, layers, viewport: stage.viewport }));
    const slice = sliceWords(view.slice, this.position, summary.slices.length);
    const caption = `${jobName(job)}, ${slice}; ${summary.model}, ${summary.preset}, ${summary.samples} samples. For research use, not for diagnosis.`;
    const drawing = figure(panels, view.marks, view.smooth, this.inMillimetres, caption);
    return kind === "svg" ? asSvg(drawing) : asPng(drawing);
  }

  private layout(): HTMLElement {
    const { job, summary } = this;
    const { preset, samples, model } = summary;
    const warned = summary.slices.filter(({ warnings }) => warnings.length > 0).length;
    const words = warned === summary.slices.length ? "⚠ with warnings" : `⚠ warnings in ${warned} of ${summary.slices.length} slices`;
    return h(
      "div",
      { class: "workspace" },
      h(
        "div",
        { class: "job-head" },
        h("h1", { title: jobName(job) }, jobName(job)),
        stateBadge(job.state),
        verdictBadge(summary.verdict),
        warned ? h("span", { class: "badge caution" }, words) : null,
        h("span", { class: "faint" }, `${model}, ${preset}, ${samples} samples`),
        this.said,
        h("a", { class: "button", href: `/view/reconstructions/${job.id}/report` }, "Report and files"),
      ),
      h(
        "div",
        { class: "reading" },
        h("div", { class: "column" }, this.controls.toolbar, this.trouble, this.holder, this.controls.slices),
        h(
          "div",
          { class: "panels" },
          this.controls.choices,
          this.regions.element,
          this.line.element,
          this.voxel.element,
          this.quality.element,
        ),
      ),
      this.shortcuts.element,
      this.saving.element,
    );
  }
}

