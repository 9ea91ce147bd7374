/** What is chosen, drawn: into the panes and planes of the page, and as a figure. */

import { api } from "./api";
import type { Job, SliceReport } from "./api";
import { sliceWords } from "./controls";
import { fill, h } from "./elements";
import { asPng, asSvg, figure } from "./figure";
import { Layers } from "./layers";
import type { Source } from "./layers";
import { jobName, problemBox } from "./notices";
import { look } from "./paint";
import type { Pane } from "./pane";
import type { Panes } from "./panes";
import type { Crossing } from "./planes";
import { pictureOf } from "./view";
import type { Choice, View } from "./view";
import { Volumes } from "./volumes";

/** What drawing takes from the page. */
export interface DrawingEvents {
  crossing: () => Crossing;
  drawn: () => void;
  failed: () => void;
}

export class Drawing {
  readonly trouble = h("div", { class: "trouble", "aria-live": "assertive" });
  private readonly sources: Map<string, Source>;
  private readonly layers: Layers;
  private drawing = false;
  private waiting = false;

  constructor(
    private readonly job: Job,
    private readonly own: Source,
    private readonly view: View,
    private readonly panes: Panes,
    private readonly events: DrawingEvents,
    private readonly signal: AbortSignal,
  ) {
    this.sources = new Map([["", own]]);
    this.layers = new Layers(this.sources, new Volumes());
  }

  get busy(): boolean {
    return this.drawing;
  }

  /** Draw what is chosen; what is chosen meanwhile is drawn after it, the latest only. */
  async draw(): Promise<void> {
    if (this.drawing) {
      this.waiting = true;
      return;
    }
    this.drawing = true;
    this.panes.element.setAttribute("aria-busy", "true");
    try {
      do {
        this.waiting = false;
        await this.drawOnce();
      } while (this.waiting && !this.signal.aborted);
      fill(this.trouble);
    } catch (error) {
      if (!this.signal.aborted) {
        this.events.failed();
        fill(this.trouble, problemBox(error, () => void this.draw()));
      }
    } finally {
      this.drawing = false;
      this.panes.element.removeAttribute("aria-busy");
    }
  }

  /** The panes that are seen, as a file; in place of planes, their slice. */
  async figure(kind: "png" | "svg"): Promise<Blob> {
    const { job, view } = this;
    const { summary } = this.own;
    const { all, seen } = this.panes;
    const shown = view.count === 0 ? all.slice(0, 1) : seen;
    if (view.count === 0) await this.drawPane(all[0] as Pane, 0);
    const panels = shown.map(({ title, layers, stage }) => ({ title, layers, viewport: stage.viewport }));
    const caption = `${jobName(job)}, ${this.sliceWords()}; ${summary.model}, ${summary.preset}, ${summary.samples} samples. For research use, not for diagnosis.`;
    const inMillimetres = Boolean(summary.image?.pixel_mm);
    const drawing = figure(panels, view.marks, view.smooth, inMillimetres, caption);
    return kind === "svg" ? asSvg(drawing) : asPng(drawing);
  }

  /** Other results of the same scan: ids and names. */
  async others(): Promise<[id: string, name: string][]> {
    const query = { state: ["succeeded" as const], limit: 200 };
    const { items } = await api.jobs(query, this.signal).catch(() => ({ items: [] as Job[] }));
    const [rows, columns] = this.own.summary.image?.shape ?? [1, 1];
    const same = items.filter(({ id, scan, summary }) => {
      const [r, c] = summary?.image?.shape ?? [0, 0];
      return id !== this.job.id && scan.sha256 === this.job.scan.sha256 && r === rows && c === columns;
    });
    return same.map((job) => [job.id, `${jobName(job)} (${job.preset})`]);
  }

  private async drawOnce(): Promise<void> {
    if (this.view.count === 0) await this.drawPlanes();
    else await Promise.all(this.panes.seen.map((pane, at) => this.drawPane(pane, at)));
    if (!this.signal.aborted) this.events.drawn();
  }

  private async drawPane(pane: Pane, at: number): Promise<void> {
    const choice = { ...(this.view.panes[at] as Choice) };
    const { view } = this;
    const { summary, pictures } = this.own;
    await this.known(choice.result);
    const { element } = pane.stage;
    try {
      const shown = await this.layers.pane(view, choice);
      if (this.signal.aborted) return;
      const { edges } = summary.slices[this.events.crossing().position] as SliceReport;
      pane.show(shown, view, { slice: this.sliceWords(), edges: edges ?? null });
      element.dataset.overlay = shown.overlay === null ? "" : (view.overlay ?? "");
    } catch (error) {
      // What one pane lacks is no reason not to draw the others.
      if (at === 0 && view.count === 1 && pictureOf(pictures, choice).missing === null) throw error;
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
    this.panes.planes?.show(volume, drawn, legend, this.events.crossing(), this.view.smooth);
  }

  private sliceWords(): string {
    return sliceWords(this.view.slice, this.events.crossing().position, this.own.summary.slices.length);
  }

  private async known(id: string): Promise<void> {
    if (this.sources.has(id)) return;
    const [job, { items }] = await Promise.all([api.job(id), api.pictures(id)]);
    if (job.summary === null) throw new Error("that reconstruction has no result");
    if (job.scan.sha256 !== this.job.scan.sha256) throw new Error("that result is of another scan");
    this.sources.set(id, { id, name: jobName(job), summary: job.summary, pictures: items });
  }
}
