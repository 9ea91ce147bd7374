/** The panes and planes on the page: which are seen, which one is active, what part of a slice they show. */

import { fill, h } from "./elements";
import { Pane } from "./pane";
import type { Planes } from "./planes";
import type { Stage, StageEvents } from "./stage";
import type { View } from "./view";
import type { Grid, Voxel } from "./viewport";

/** What the panes take from the page. */
export interface PanesEvents extends Pick<StageEvents, "sliceTurned" | "marked"> {
  activated: () => void;
  windowDragged: (pane: Pane, width: number, level: number) => void;
  pointed: (voxel: Voxel | null) => void;
  /** The view has got another part of the slice. */
  placed: () => void;
}

export class Panes {
  readonly element = h("div", { class: "panes" });
  readonly all: Pane[];
  /** Which pane is the active one. */
  active = 0;
  private placing = false;

  constructor(
    private readonly grid: Grid,
    private readonly inMillimetres: boolean,
    slices: number,
    private readonly view: View,
    readonly planes: Planes | null,
    private readonly events: PanesEvents,
  ) {
    this.all = view.panes.map((_, at) => this.make(at, slices));
  }

  get pane(): Pane {
    return this.all[this.active] as Pane;
  }

  get seen(): Pane[] {
    return this.all.slice(0, this.view.count);
  }

  get stages(): Stage[] {
    return [...this.all.map(({ stage }) => stage), ...(this.planes?.stages ?? [])];
  }

  /** The one that was pressed last. */
  get stage(): Stage {
    return this.view.count === 0 && this.planes ? this.planes.chosen : this.pane.stage;
  }

  /** Show the part of a slice that the view begins with. */
  begin(): void {
    const { zoom, centre } = this.view;
    for (const { stage } of this.all) {
      stage.viewport.zoom = zoom;
      if (centre !== null) stage.viewport.centre = { ...centre };
    }
    this.arrange();
  }

  /** Put the panes that are seen into the page. */
  arrange(): void {
    const { count } = this.view;
    this.active = Math.min(this.active, Math.max(0, count - 1));
    const seen = count === 0 && this.planes ? [this.planes] : this.seen;
    const there = [...this.element.children];
    const wanted = seen.map(({ element }) => element);
    if (there.length !== wanted.length || there.some((one, at) => one !== wanted[at])) {
      fill(this.element, ...wanted);
    }
    this.element.dataset.count = String(count);
    this.all.forEach(({ element }, at) => {
      element.classList.toggle("active", count > 1 && at === this.active);
    });
  }

  private make(at: number, slices: number): Pane {
    const { windowDragged, sliceTurned, marked } = this.events;
    const pane: Pane = new Pane(this.grid, this.view.marks, this.inMillimetres, {
      chosen: () => this.activate(at),
      windowDragged: (width, level) => windowDragged(pane, width, level),
      sliceTurned,
      marked,
      pointed: (voxel) => this.point(at, voxel),
      placed: () => this.follow(pane),
    });
    pane.stage.slices = slices;
    pane.stage.extents = () => this.planes?.extents("slices") ?? [];
    return pane;
  }

  private activate(at: number): void {
    if (this.active === at) return;
    this.active = at;
    this.arrange();
    this.events.activated();
  }

  private point(at: number, voxel: Voxel | null): void {
    this.seen.forEach((pane, other) => pane.point(voxel, other === at));
    this.events.pointed(voxel);
  }

  /** One pane shows another part of the slice: so do the others. */
  private follow(from: Pane): void {
    const { zoom, centre } = from.stage.viewport;
    for (const { stage } of this.all) {
      stage.viewport.zoom = zoom;
      stage.viewport.centre = { ...centre };
    }
    const home = (this.grid.rows - 1) / 2 === centre.row && (this.grid.columns - 1) / 2 === centre.column;
    Object.assign(this.view, { zoom, centre: home ? null : { ...centre } });
    if (this.placing) return;
    this.placing = true;
    requestAnimationFrame(() => {
      this.placing = false;
      for (const { stage } of this.seen) stage.repaint();
      this.events.placed();
    });
  }
}
