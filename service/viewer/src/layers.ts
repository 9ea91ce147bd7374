/** From what is chosen to what is drawn: planes of values, windows and colours. */

import type { Picture, Report } from "./api";
import type { Legend } from "./colour-bar";
import { look } from "./paint";
import type { Colour, Look } from "./paint";
import { difference, masked, quantile, sliceOf } from "./plane";
import type { Plane } from "./plane";
import type { Choice, View } from "./view";
import type { Volume, Window } from "./volume";
import type { Volumes } from "./volumes";

/** One plane with its colours. */
export interface Layer {
  plane: Plane;
  look: Look;
  legend: Legend;
  /** The name under which its window is kept. */
  window: string;
}

/** A reconstruction that a pane can show. */
export interface Source {
  id: string;
  name: string;
  summary: Report;
  pictures: Picture[];
}

/** What a pane shows: the picture, and the overlay on it. */
export interface Shown {
  title: string;
  meaning: string;
  base: Layer;
  overlay: Layer | null;
}

/** These are shown with one window, so that they can be compared. */
export const ALIKE = new Set(["mean", "sample", "coarse"]);
/** From blue over black to red: scientific colour map "berlin" of F. Crameri (MIT). */
const BELOW_ABOVE: Colour[] = [
  [158, 175, 254], [98, 166, 224], [50, 127, 165], [31, 81, 105], [17, 39, 49], [25, 11, 8],
  [54, 15, 0], [97, 32, 11], [150, 73, 54], [202, 122, 113], [254, 173, 173],
];
/** Overlays begin where this share of the object lies below, and are strongest at the upper end. */
const STARTS = 0.8;
const ENDS = 0.997;
/** How fast an overlay grows opaque: fully so before the upper end. */
const STEEP = 1.7;
/** The darkest colours of a map would only darken what lies below. */
const BRIGHT = 0.42;

/** The name of a window in a view. */
export function windowName(choice: Choice): string {
  const own = ALIKE.has(choice.picture) ? "mean" : choice.picture;
  return choice.minus ? `difference-${own}` : own;
}

/** Makes the layers of panes; asks for the volumes that it needs. */
export class Layers {
  constructor(
    private readonly sources: Map<string, Source>,
    private readonly volumes: Volumes,
  ) {}

  /** Throws where the picture or the slice is not there. */
  async pane(view: View, choice: Choice): Promise<Shown> {
    const own = await this.plane(view, choice);
    const first = view.panes[0];
    const minus = choice.minus ? await this.plane(view, { ...first, minus: false }) : null;
    const plane = minus === null ? own.plane : difference(own.plane, minus.plane);
    const window = await this.windowOf(view, choice, own.picture, plane);
    const colours = minus === null ? own.picture.colours : BELOW_ABOVE;
    const title = minus === null ? own.title : `${own.title} − ${minus.title}`;
    const legend = { label: title, unit: own.picture.unit, colours, window };
    const grey = ALIKE.has(choice.picture) && minus === null;
    return {
      title,
      meaning: minus === null ? own.picture.meaning : `${own.picture.meaning}; less ${minus.title}`,
      base: { plane, look: look(colours, window), legend, window: windowName(choice) },
      overlay: grey && view.overlay ? await this.overlay(view, choice, view.overlay) : null,
    };
  }

  /** The volume of a picture, for planes across the slices. */
  async volume(view: View, choice: Choice): Promise<{ volume: Volume; picture: Picture }> {
    const picture = this.picture(choice);
    return { picture, volume: await this.volumes.get(picture, sampleOf(view, choice)) };
  }

  async windowOf(view: View, choice: Choice, picture: Picture, plane: Plane): Promise<Window> {
    const name = windowName(choice);
    const chosen = view.windows.get(name);
    if (chosen !== undefined) return chosen;
    if (choice.minus) {
      const largest = quantile(plane.values.map(Math.abs), ENDS) || 1;
      return { low: -largest, high: largest };
    }
    // What is shown alike has the window of the first pane's mean, whatever the result.
    const result = view.panes[0].result;
    const standard = ALIKE.has(choice.picture) ? this.picture({ picture: "mean", result }) : picture;
    return (await this.volumes.get(standard, 0)).window;
  }

  private async plane(
    view: View,
    choice: Choice,
  ): Promise<{ plane: Plane; picture: Picture; title: string }> {
    const source = this.source(choice.result);
    const { volume, picture } = await this.volume(view, choice);
    const position = source.summary.slices.findIndex(({ slice }) => slice === view.slice);
    if (position < 0) throw new Error(`“${source.name}” has no slice ${view.slice}`);
    const which = choice.picture === "sample" ? ` ${view.sample + 1}` : "";
    const label = choice.picture === "sample" ? "Sample" : picture.label;
    const whose = choice.result === "" ? "" : ` (${source.name})`;
    return { plane: sliceOf(volume, position), picture, title: `${label}${which}${whose}` };
  }

  /** A map on top: inside the object only, and more opaque the larger the value. */
  private async overlay(view: View, choice: Choice, name: string): Promise<Layer | null> {
    const over = { picture: name, result: choice.result, minus: false };
    const [{ plane, picture }, mask] = await Promise.all([
      this.plane(view, over),
      this.plane(view, { ...over, picture: "object" }),
    ]);
    const inside = masked(plane, mask.plane);
    const window = view.windows.get(`over-${name}`) ?? (await this.overlayWindow(view, over));
    const colours = bright((this.find({ ...over, picture: "std" }) ?? picture).colours);
    const legend = { label: picture.label, unit: picture.unit, colours, window };
    const drawn = look(colours, window, (share) => view.opacity * Math.min(1, STEEP * share));
    return { plane: inside, look: drawn, legend, window: `over-${name}` };
  }

  /** From a percentile of the object to nearly its largest value, over all slices. */
  private async overlayWindow(view: View, over: Choice): Promise<Window> {
    const [{ volume }, mask] = await Promise.all([
      this.volume(view, over),
      this.volume(view, { ...over, picture: "object" }),
    ]);
    const all = (of: Volume): Plane => ({ rows: 1, columns: of.values.length, values: of.values });
    const inside = masked(all(volume), all(mask.volume)).values;
    const low = quantile(inside, STARTS);
    const high = quantile(inside, ENDS);
    return high > low ? { low, high } : { low: 0, high: Math.max(high, 1e-30) || 1 };
  }

  private source(result: string): Source {
    const source = this.sources.get(result);
    if (source === undefined) throw new Error("that reconstruction is not there");
    return source;
  }

  private find({ picture, result }: Pick<Choice, "picture" | "result">): Picture | undefined {
    return this.source(result).pictures.find(({ name }) => name === picture);
  }

  private picture(choice: Pick<Choice, "picture" | "result">): Picture {
    const found = this.find(choice);
    if (found === undefined) throw new Error(`there is no picture “${choice.picture}”`);
    if (found.missing !== null) throw new Error(found.missing);
    return found;
  }
}

function sampleOf(view: View, choice: Choice): number {
  return choice.picture === "sample" ? view.sample : 0;
}

function bright(colours: Colour[]): Colour[] {
  return colours.slice(Math.floor(BRIGHT * colours.length));
}
