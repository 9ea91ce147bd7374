/** The page with the pictures: what is chosen, and everything that follows from it. */

import type { Job, Picture, Report, SliceReport } from "./api";
import { ColourBar } from "./colour-bar";
import { Controls } from "./controls";
import { fill, h } from "./elements";
import { number } from "./format";
import { keysOf } from "./keys";
import { jobName, problemBox, stateBadge } from "./notices";
import { QualityPanel } from "./quality-panel";
import { RegionPanel } from "./region-panel";
import { grown, moved } from "./regions";
import { hasWebGL2 } from "./renderer";
import type { Layer, Renderer } from "./renderer";
import { ServerPictures, suggestedWindow } from "./server-pictures";
import { shortcutsDialog } from "./shortcuts";
import { Stage } from "./stage";
import type { Slot, Tool } from "./stage";
import { Viewport } from "./viewport";
import type { Voxel } from "./viewport";
import { valueAt } from "./volume";
import type { Volume, Window } from "./volume";
import { Volumes } from "./volumes";

const FLIP = 350;
/** These are shown with one window, so that they can be compared. */
const ALIKE = new Set(["mean", "sample", "coarse"]);
const NARROWEST = 1e-9;

export class Workspace {
  readonly element: HTMLElement;
  private readonly stage: Stage;
  private readonly renderer: Promise<Renderer>;
  private readonly controls: Controls;
  private readonly regions: RegionPanel;
  private readonly quality: QualityPanel;
  private readonly bars = { base: new ColourBar(), overlay: new ColourBar() };
  private readonly corner = h("p", { class: "corner" });
  private readonly readout = h("p", { class: "readout" });
  private readonly trouble = h("div", { class: "trouble", "aria-live": "assertive" });
  private readonly shortcuts = shortcutsDialog();
  private readonly volumes = new Volumes();
  private readonly windows = new Map<string, Window>();
  private base: Picture;
  private overlay: Picture | null = null;
  private opacity = 0.6;
  private sample = 0;
  private position: number;
  private smooth = false;
  private tool: Tool = "window";
  private playing = 0;
  private shown: { base: Volume | null; overlay: Volume | null } = { base: null, overlay: null };
  private drawing = false;
  private waiting = false;

  constructor(
    private readonly job: Job,
    private readonly summary: Report,
    private readonly pictures: Picture[],
    private readonly signal: AbortSignal,
  ) {
    const [rows, columns] = summary.image?.shape ?? [1, 1];
    this.base = pictures[0] as Picture;
    this.position = Math.floor(summary.slices.length / 2);
    const holder = h("div", { class: "holder" });
    const pixel = summary.image?.pixel_mm ?? [1, 1];
    this.stage = new Stage(new Viewport({ rows, columns, pixel }), holder, {
      windowDragged: (width, level) => this.dragWindow(width, level),
      sliceTurned: (by) => this.goTo(this.position + by),
      regionChanged: (_slot, done) => done && this.askRegions(),
      pointed: (at) => this.read(at),
      placed: () => void this.renderer.then((renderer) => renderer.place(this.stage.viewport)),
    });
    this.stage.slices = summary.slices.length;
    this.renderer = this.choose(holder);
    this.controls = new Controls(pictures, summary, {
      pictureChosen: (picture) => this.show(picture),
      overlayChosen: (picture) => this.lay(picture),
      opacityChosen: (value) => this.fade(value),
      sampleChosen: (sample) => this.flipTo(sample),
      sliceChosen: (position) => this.goTo(position),
      windowChosen: (window, overlay) => this.setWindow(window, overlay),
      automatic: () => this.automatic(),
      played: () => this.play(),
      toolChosen: (tool) => this.use(tool),
      zoomed: (factor) => (factor === 0 ? this.stage.fit() : this.stage.zoom(factor)),
      smoothed: () => this.toggleSmooth(),
      helped: () => this.shortcuts.open(),
    });
    this.regions = new RegionPanel(
      job.id,
      (slot) => this.useSlot(slot),
      (slot) => this.stage.set(slot, null),
    );
    this.quality = new QualityPanel(job);
    this.stage.element.append(
      this.corner,
      this.readout,
      h("div", { class: "bars" }, this.bars.overlay.element, this.bars.base.element),
    );
    this.element = this.layout();
    const keys = keysOf(this);
    const listen = (event: KeyboardEvent) => keys(event);
    document.addEventListener("keydown", listen);
    signal.addEventListener("abort", () => {
      document.removeEventListener("keydown", listen);
      clearInterval(this.playing);
      void this.renderer.then((renderer) => renderer.dispose());
    });
  }

  /** Draw the first picture; the element must be in the page. */
  async start(): Promise<void> {
    this.useSlot("A");
    this.use("window");
    this.sliceChanged();
    await this.draw();
  }

  show(picture: Picture): void {
    if (picture.name !== "sample") this.stop();
    this.base = picture;
    void this.draw();
  }

  showNumber(at: number): void {
    const picture = this.pictures[at];
    if (picture?.missing === null) this.show(picture);
  }

  lay(picture: Picture | null): void {
    this.overlay = picture;
    void this.draw();
  }

  nextOverlay(by: number): void {
    const choices: (Picture | null)[] = [null, ...this.pictures.filter(({ overlay, missing }) => overlay && missing === null)];
    const at = choices.indexOf(this.overlay) + by;
    this.lay(choices[(at + choices.length) % choices.length] ?? null);
  }

  fade(value: number): void {
    this.opacity = Math.min(1, Math.max(0, value));
    void this.draw();
  }

  fadeBy(step: number): void {
    this.fade(this.opacity + step);
  }

  goTo(position: number): void {
    const now = Math.min(this.summary.slices.length - 1, Math.max(0, position));
    if (now === this.position) return;
    this.position = now;
    this.sliceChanged();
    void this.draw();
  }

  turn(by: number): void {
    this.goTo(this.position + by);
  }

  flipTo(sample: number): void {
    const count = this.summary.samples;
    this.sample = (sample + count) % count;
    const samples = this.pictures.find(({ name }) => name === "sample");
    if (samples) this.base = samples;
    void this.draw();
  }

  flip(by: number): void {
    // The first press shows the samples; later ones turn them over.
    this.flipTo(this.base.name === "sample" ? this.sample + by : this.sample);
  }

  play(): void {
    if (this.playing) {
      this.stop();
      return;
    }
    this.flip(1);
    this.playing = window.setInterval(() => {
      if (!this.drawing) this.flip(1);
    }, FLIP);
    this.controls.playing(true);
  }

  use(tool: Tool): void {
    this.tool = tool;
    this.stage.use(tool);
    this.controls.tool(tool);
  }

  useSlot(slot: Slot): void {
    this.stage.slot = slot;
    this.regions.choose(slot);
    this.stage.redraw();
    const drawing = this.tool === "rectangle" || this.tool === "ellipse" || this.tool === "polygon";
    if (!drawing && slot === "B") this.use("rectangle");
  }

  otherSlot(): void {
    this.useSlot(this.stage.slot === "A" ? "B" : "A");
  }

  placeRegion(): void {
    this.stage.place();
  }

  removeRegion(): void {
    this.stage.set(this.stage.slot, null);
  }

  nudge(rows: number, columns: number, size: boolean): void {
    const { slot, regions } = this.stage;
    const region = regions[slot];
    if (region === null) return;
    const change = size ? grown(region, -rows / 2, columns / 2) : moved(region, rows, columns);
    this.stage.set(slot, change);
  }

  giveUp(): void {
    this.stage.giveUp();
    this.stop();
  }

  zoom(factor: number): void {
    if (factor === 0) this.stage.fit();
    else this.stage.zoom(factor);
  }

  toggleSmooth(): void {
    this.smooth = !this.smooth;
    this.controls.smooth(this.smooth);
    void this.draw();
  }

  automatic(): void {
    this.windows.delete(alike(this.base));
    if (this.overlay) this.windows.delete(alike(this.overlay));
    void this.draw();
  }

  help(): void {
    this.shortcuts.open();
  }

  private stop(): void {
    clearInterval(this.playing);
    this.playing = 0;
    this.controls.playing(false);
  }

  private get report(): SliceReport {
    return this.summary.slices[this.position] as SliceReport;
  }

  private setWindow(window: Window, overlay: boolean): void {
    const picture = overlay ? this.overlay : this.base;
    if (picture === null || !(window.high > window.low)) return;
    this.windows.set(alike(picture), window);
    void this.draw();
  }

  private dragWindow(width: number, level: number): void {
    const { low, high } = this.windows.get(alike(this.base)) ?? { low: 0, high: 1 };
    const span = Math.max((high - low) * Math.exp(2 * width), NARROWEST * Math.abs(high));
    // Upwards is brighter, as at every workstation: the level falls.
    const middle = (low + high) / 2 - level * (high - low);
    this.setWindow({ low: middle - span / 2, high: middle + span / 2 }, false);
  }

  private sliceChanged(): void {
    this.quality.show(this.report);
    this.stage.name(this.report.edges ?? null);
    this.askRegions();
  }

  private askRegions(): void {
    this.regions.ask(this.report.slice, this.stage.regions);
  }

  /** Draw what is chosen; what is chosen meanwhile is drawn after it, the latest only. */
  private async draw(): Promise<void> {
    if (this.drawing) {
      this.waiting = true;
      return;
    }
    this.drawing = true;
    this.stage.element.setAttribute("aria-busy", "true");
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
      this.stage.element.removeAttribute("aria-busy");
    }
  }

  private async drawOnce(): Promise<void> {
    const renderer = await this.renderer;
    const own = !(renderer instanceof ServerPictures);
    const [base, overlay] = await Promise.all([
      this.layer(this.base, 1, own),
      this.overlay === null ? null : this.layer(this.overlay, this.opacity, own),
    ]);
    if (this.signal.aborted) return;
    this.shown = { base: base.volume, overlay: overlay?.volume ?? null };
    const { position, smooth } = this;
    const index = this.report.slice;
    const slices = this.summary.slices.length;
    await renderer.show({ base, overlay, position, index, slices, smooth });
    renderer.place(this.stage.viewport);
    this.say(base, overlay);
  }

  private async layer(picture: Picture, opacity: number, own: boolean): Promise<Layer> {
    const sample = picture.name === "sample" ? this.sample : 0;
    const volume = own ? await this.volumes.get(picture, sample) : null;
    const name = alike(picture);
    let window = this.windows.get(name);
    if (window === undefined) {
      const standard = this.pictures.find((other) => other.name === name) ?? picture;
      window = own
        ? (await this.volumes.get(standard, 0)).window
        : await suggestedWindow(this.job.id, this.report.slice, name);
      this.windows.set(name, window);
    }
    return { picture, sample, volume, window, opacity };
  }

  /** Everything that repeats in words what is drawn. */
  private say(base: Layer, overlay: Layer | null): void {
    const { slice } = this.report;
    const total = this.summary.slices.length;
    const sample = base.picture.name === "sample" ? ` ${this.sample + 1}/${this.summary.samples}` : "";
    const over = overlay ? ` + ${overlay.picture.label}` : "";
    fill(
      this.corner,
      h("strong", {}, `${base.picture.label}${sample}${over}`),
      h("span", {}, `slice ${slice}${total > 1 ? ` (${this.position + 1} of ${total})` : ""}`),
      h("span", {}, this.report.edges ? "" : "orientation not in the scan"),
    );
    const what = `${base.picture.meaning}${overlay ? `; on top: ${overlay.picture.meaning}` : ""}`;
    const marks = `Slice ${slice}. Arrow keys change the slice, question mark lists all keys.`;
    this.stage.element.setAttribute("aria-label", `${what}. ${marks}`);
    this.stage.element.dataset.picture = base.picture.name;
    this.stage.element.dataset.overlay = overlay?.picture.name ?? "";
    this.stage.element.dataset.slice = String(slice);
    this.stage.element.dataset.sample = String(this.sample);
    this.bars.base.show(base.picture, base.window);
    this.bars.overlay.show(overlay?.picture ?? null, overlay?.window ?? base.window);
    this.controls.say({
      base,
      overlay,
      position: this.position,
      slice,
      sample: this.sample,
      opacity: this.opacity,
    });
  }

  private read(at: Voxel | null): void {
    const { base, overlay } = this.shown;
    const row = Math.round(at?.row ?? -1);
    const column = Math.round(at?.column ?? -1);
    const value = base === null ? null : valueAt(base, this.position, row, column);
    if (at === null || value === null) {
      fill(this.readout);
      return;
    }
    const parts = [`row ${row}, column ${column}`, said(this.base, value)];
    if (overlay !== null && this.overlay !== null) {
      const above = valueAt(overlay, this.position, row, column);
      if (above !== null) parts.push(said(this.overlay, above));
    }
    fill(this.readout, parts.join(" · "));
  }

  private async choose(holder: HTMLElement): Promise<Renderer> {
    const chosen = await this.chosen(holder);
    this.stage.element.dataset.renderer = chosen instanceof ServerPictures ? "server" : "webgl2";
    return chosen;
  }

  private async chosen(holder: HTMLElement): Promise<Renderer> {
    if (hasWebGL2() && !new URLSearchParams(location.search).has("pictures")) {
      try {
        const { NiivueRenderer } = await import("./niivue");
        const renderer = new NiivueRenderer();
        holder.append(renderer.element);
        await renderer.attach();
        return renderer;
      } catch (error) {
        console.warn("NiiVue does not start; the service draws the pictures", error);
        holder.replaceChildren();
      }
    }
    const renderer = new ServerPictures(this.job.id);
    holder.append(renderer.element);
    return renderer;
  }

  private layout(): HTMLElement {
    const { job, summary } = this;
    const { preset, samples, model } = summary;
    const warned = summary.slices.some(({ warnings }) => warnings.length > 0);
    return h(
      "div",
      { class: "workspace" },
      h(
        "div",
        { class: "job-head" },
        h("h1", { title: jobName(job) }, jobName(job)),
        stateBadge(job.state),
        warned ? h("span", { class: "badge caution" }, "⚠ with warnings") : null,
        h("span", { class: "faint" }, `${model}, ${preset}, ${samples} samples`),
        h("a", { class: "button", href: `/view/reconstructions/${job.id}/report` }, "Report and files"),
      ),
      h(
        "div",
        { class: "reading" },
        h("div", { class: "column" }, this.controls.toolbar, this.trouble, this.stage.element, this.controls.slices),
        h(
          "div",
          { class: "panels" },
          this.controls.choices,
          this.regions.element,
          this.quality.element,
        ),
      ),
      this.shortcuts.element,
    );
  }
}

/** Pictures that share a window share this name. */
function alike(picture: Picture): string {
  return ALIKE.has(picture.name) ? "mean" : picture.name;
}

function said(picture: Picture, value: number): string {
  return `${picture.label} ${number(value)}${picture.unit ? ` ${picture.unit}` : ""}`;
}
