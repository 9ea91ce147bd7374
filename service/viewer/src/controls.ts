/** The controls beside the panes. They only say what was chosen; the workspace decides. */

import type { Picture, Report } from "./api";
import { fill, h } from "./elements";
import { number } from "./format";
import { icon } from "./icons";
import type { Layer } from "./layers";
import type { Tool } from "./stage";
import type { View } from "./view";
import type { Window } from "./volume";

export interface Choices {
  pictureChosen: (picture: string) => void;
  overlayChosen: (picture: string | null) => void;
  opacityChosen: (value: number) => void;
  sampleChosen: (sample: number) => void;
  sliceChosen: (position: number) => void;
  windowChosen: (name: string, window: Window) => void;
  resultChosen: (id: string) => void;
  minusChosen: (is: boolean) => void;
  layoutChosen: (count: View["count"]) => void;
  automatic: () => void;
  played: (what: "samples" | "slices") => void;
  toolChosen: (tool: Tool) => void;
  /** A factor; 0 fits the slice. */
  zoomed: (factor: number) => void;
  smoothed: () => void;
  saved: () => void;
  linkCopied: () => void;
  helped: () => void;
}

const TOOLS: [Tool, string, string][] = [
  ["window", "Window", "W"],
  ["pan", "Move", "V"],
  ["line", "Line", "L"],
  ["rectangle", "Rectangle", "R"],
  ["ellipse", "Ellipse", "E"],
  ["polygon", "Polygon", "P"],
];

const LAYOUTS: [View["count"], string][] = [
  [1, "One picture"],
  [2, "Two pictures side by side"],
  [3, "Three pictures side by side"],
  [4, "Four pictures side by side"],
  [0, "Three planes"],
];

export class Controls {
  readonly toolbar: HTMLElement;
  readonly choices: HTMLElement;
  readonly slices: HTMLElement;
  private readonly tools = new Map<Tool, HTMLButtonElement>();
  private readonly layouts = new Map<View["count"], HTMLButtonElement>();
  private readonly radios = new Map<string, HTMLInputElement>();
  private readonly diagnostics: HTMLDetailsElement;
  private readonly overlay: HTMLSelectElement;
  private readonly opacity = range("Opacity of the overlay", 0, 100);
  private readonly slice: HTMLInputElement;
  private readonly sliceWords = h("output", { for: "slice" });
  private readonly sample: HTMLInputElement;
  private readonly sampleWords = h("output", { for: "sample" });
  private readonly plays: Record<"samples" | "slices", HTMLButtonElement>;
  private readonly smoothButton: HTMLButtonElement;
  private readonly meaning = h("p", { class: "faint meaning" });
  private readonly which = h("span", { class: "faint" });
  private readonly compare = h("div", { class: "compare", hidden: true });
  private readonly result = h("select", { id: "result" });
  private readonly minus = h("input", { type: "checkbox", id: "minus" });
  private readonly windows: { base: WindowFields; overlay: WindowFields };

  constructor(
    private readonly pictures: Picture[],
    summary: Report,
    planes: string | null,
    private readonly events: Choices,
  ) {
    this.smoothButton = tool("smooth", "Smooth", "I", () => events.smoothed());
    const play = (what: "samples" | "slices") =>
      h("button", { type: "button", class: "small", onclick: () => events.played(what) });
    this.plays = { samples: play("samples"), slices: play("slices") };
    this.playing(null);
    this.toolbar = this.makeToolbar(planes);

    this.slice = range("Slice", 0, summary.slices.length - 1);
    this.slice.id = "slice";
    this.slice.addEventListener("input", () => events.sliceChosen(this.slice.valueAsNumber));
    const turn = (by: number) => () => events.sliceChosen(this.slice.valueAsNumber + by);
    this.slices = h(
      "div",
      { class: "slices" },
      h("span", { class: "label" }, "Slice"),
      h("button", { type: "button", class: "small", "aria-label": "Previous slice", onclick: turn(-1) }, "◀"),
      this.slice,
      h("button", { type: "button", class: "small", "aria-label": "Next slice", onclick: turn(1) }, "▶"),
      this.plays.slices,
      this.sliceWords,
    );
    this.slices.classList.toggle("one", summary.slices.length === 1);

    const overlays = pictures.filter(({ overlay, missing }) => overlay && missing === null);
    this.overlay = h(
      "select",
      { id: "overlay" },
      h("option", { value: "" }, "none"),
      ...overlays.map(({ name, label }) => h("option", { value: name }, label)),
    );
    this.overlay.addEventListener("change", () => events.overlayChosen(this.overlay.value || null));
    this.opacity.addEventListener("input", () =>
      events.opacityChosen(this.opacity.valueAsNumber / 100),
    );

    this.sample = range("Sample", 0, summary.samples - 1);
    this.sample.id = "sample";
    this.sample.addEventListener("input", () => events.sampleChosen(this.sample.valueAsNumber));
    this.result.addEventListener("change", () => events.resultChosen(this.result.value));
    this.minus.addEventListener("change", () => events.minusChosen(this.minus.checked));

    this.windows = {
      base: new WindowFields("Picture", events.windowChosen),
      overlay: new WindowFields("Overlay", events.windowChosen),
    };
    this.diagnostics = h("details", { class: "diagnostics" });
    this.choices = this.makeChoices();
  }

  tool(chosen: Tool): void {
    for (const [name, button] of this.tools) {
      button.setAttribute("aria-pressed", String(name === chosen));
    }
  }

  playing(what: "samples" | "slices" | null): void {
    for (const name of ["samples", "slices"] as const) {
      const button = this.plays[name];
      button.textContent = what === name ? "◼ Stop" : "▶ Play";
      button.setAttribute("aria-label", what === name ? `Stop the ${name}` : `Play the ${name}`);
    }
  }

  /** Other results of the same scan, by id. */
  others(found: [id: string, name: string][]): void {
    const options = [["", "this one"], ...found] as [string, string][];
    fill(this.result, ...options.map(([value, name]) => h("option", { value }, name)));
  }

  /** Show what is chosen, and the layers of the pane that is active. */
  say(view: View, position: number, active: number, layers: Layer[]): void {
    const choice = view.panes[active] ?? view.panes[0];
    const radio = this.radios.get(choice.picture);
    if (radio) radio.checked = true;
    const picture = this.pictures.find(({ name }) => name === choice.picture);
    if (picture?.diagnostic) this.diagnostics.open = true;
    this.which.textContent = view.count > 1 ? `pane ${active + 1} of ${view.count}` : "";
    this.compare.hidden = view.count < 2;
    this.result.value = choice.result;
    (this.result.parentElement as HTMLElement).hidden = this.result.options.length < 2;
    (this.minus.parentElement as HTMLElement).hidden = active === 0;
    this.minus.checked = choice.minus;
    this.overlay.value = view.overlay ?? "";
    this.opacity.value = String(Math.round(100 * view.opacity));
    this.opacity.disabled = view.overlay === null;
    this.slice.value = String(position);
    this.slice.setAttribute("aria-valuetext", `slice ${view.slice}`);
    const last = Number(this.slice.max) + 1;
    this.sliceWords.textContent = sliceWords(view.slice, position, last);
    this.sample.value = String(view.sample);
    this.sample.setAttribute("aria-valuetext", `sample ${view.sample + 1}`);
    this.sampleWords.textContent = `${view.sample + 1} of ${Number(this.sample.max) + 1}`;
    this.smoothButton.setAttribute("aria-pressed", String(view.smooth));
    for (const [count, button] of this.layouts) {
      button.setAttribute("aria-pressed", String(count === view.count));
    }
    this.meaning.textContent = picture ? `${picture.meaning}.` : "";
    this.windows.base.say(layers[0] ?? null);
    this.windows.overlay.say(layers[1] ?? null);
  }

  private makeToolbar(planes: string | null): HTMLElement {
    const { events } = this;
    const buttons = TOOLS.map(([name, label, key]) => {
      const button = tool(name, label, key, () => events.toolChosen(name));
      this.tools.set(name, button);
      return button;
    });
    const layouts = LAYOUTS.map(([count, label]) => {
      const mark = count === 0 ? "planes" : `panes${count}`;
      const button = tool(mark, label, count === 0 ? "N" : "B", () => events.layoutChosen(count), true);
      this.layouts.set(count, button);
      if (count === 0 && planes !== null) {
        button.disabled = true;
        button.title = `Three planes: ${planes}`;
      }
      return button;
    });
    const group = (name: string, ...children: HTMLElement[]) =>
      h("div", { class: "group", role: "group", "aria-label": name }, ...children);
    return h(
      "div",
      { class: "toolbar", role: "toolbar", "aria-label": "Tools" },
      group("Pointer", ...buttons.slice(0, 2)),
      group("Measure", ...buttons.slice(2)),
      group("Layout", ...layouts),
      group(
        "Size",
        tool("smaller", "Smaller", "−", () => events.zoomed(0.8), true),
        tool("fit", "Fit", "F", () => events.zoomed(0), true),
        tool("larger", "Larger", "+", () => events.zoomed(1.25), true),
      ),
      group(
        "Look",
        this.smoothButton,
        tool("automatic", "Automatic window", "A", () => events.automatic(), true),
      ),
      group(
        "Pass on",
        tool("save", "Save", "S", () => events.saved()),
        tool("link", "Copy link", "C", () => events.linkCopied(), true),
        tool("help", "Keyboard", "?", () => events.helped(), true),
      ),
    );
  }

  private radio(picture: Picture, at: number): HTMLInputElement {
    const radio = h("input", { type: "radio", name: "picture", value: picture.name });
    radio.id = `picture-${picture.name}`;
    radio.disabled = picture.missing !== null;
    radio.setAttribute("aria-keyshortcuts", String((at + 1) % 10));
    radio.addEventListener("change", () => this.events.pictureChosen(picture.name));
    this.radios.set(picture.name, radio);
    return radio;
  }

  private makeChoices(): HTMLElement {
    const first = this.pictures.map((picture, at) => {
      if (picture.diagnostic) return null;
      const radio = this.radio(picture, at);
      const key = h("kbd", { "aria-hidden": "true" }, at + 1);
      return h("label", { title: picture.meaning }, radio, h("span", {}, picture.label, key));
    });
    const others = this.pictures.map((picture, at) => {
      if (!picture.diagnostic) return null;
      const radio = this.radio(picture, at);
      const why = picture.missing ?? `${picture.meaning}.`;
      const id = `why-${picture.name}`;
      radio.setAttribute("aria-describedby", id);
      const key = at < 10 ? h("kbd", { "aria-hidden": "true" }, (at + 1) % 10) : null;
      return h(
        "div",
        { class: picture.missing === null ? "diagnostic" : "diagnostic off" },
        h("label", {}, radio, h("span", {}, picture.label, key)),
        h("p", { class: "faint", id }, why),
      );
    });
    fill(
      this.diagnostics,
      h("summary", {}, "Diagnostics"),
      h("div", { class: "diagnostic-list" }, ...others),
    );
    const numbered = h("div", { class: "row" }, h("h2", { id: "picture-head" }, "Picture"), this.which);
    fill(
      this.compare,
      h("div", { class: "line" }, h("label", { for: "result" }, "Result"), this.result),
      h("div", { class: "check" }, this.minus, h("label", { for: "minus" }, "Difference from the first pane")),
    );
    return h(
      "section",
      { class: "panel", "aria-labelledby": "picture-head" },
      numbered,
      h(
        "div",
        { role: "radiogroup", "aria-labelledby": "picture-head", class: "all-pictures" },
        h("div", { class: "pictures" }, ...first),
        this.meaning,
        this.diagnostics,
      ),
      this.compare,
      h(
        "div",
        { class: "line" },
        h("label", { for: "sample" }, "Sample"),
        this.sample,
        this.sampleWords,
        this.plays.samples,
      ),
      h(
        "div",
        { class: "line" },
        h("label", { for: "overlay" }, "Overlay"),
        this.overlay,
        this.opacity,
      ),
      h("details", { class: "windows" }, h("summary", {}, "Window"), this.windows.base.element, this.windows.overlay.element),
    );
  }
}

/** `slice 3 of 12`, and the scan's own index where the result holds only some slices. */
export function sliceWords(slice: number, position: number, count: number): string {
  if (count === 1) return `slice ${slice}, the only one`;
  const counted = `slice ${position + 1} of ${count}`;
  return slice === position ? counted : `${counted} (index ${slice} in the scan)`;
}

/** Both ends of a window as numbers, for those who do not drag. */
class WindowFields {
  readonly element: HTMLElement;
  private readonly low = h("input", { type: "text", inputmode: "decimal" });
  private readonly high = h("input", { type: "text", inputmode: "decimal" });
  private name = "";

  constructor(
    label: string,
    private readonly chosen: (name: string, window: Window) => void,
  ) {
    this.low.setAttribute("aria-label", `${label}: value of the darkest colour`);
    this.high.setAttribute("aria-label", `${label}: value of the brightest colour`);
    for (const field of [this.low, this.high]) {
      field.addEventListener("change", () => this.read());
    }
    this.element = h("div", { class: "line" }, h("span", { class: "label" }, label), this.low, h("span", {}, "to"), this.high);
  }

  say(layer: Layer | null): void {
    this.element.hidden = layer === null;
    if (layer === null) return;
    this.name = layer.window;
    const { low, high } = layer.legend.window;
    for (const [field, value] of [[this.low, low], [this.high, high]] as const) {
      if (field !== document.activeElement) field.value = plain(value);
      field.title = number(value);
    }
  }

  private read(): void {
    const low = Number(this.low.value.replace(",", "."));
    const high = Number(this.high.value.replace(",", "."));
    const good = Number.isFinite(low) && Number.isFinite(high) && high > low;
    this.element.classList.toggle("wrong", !good);
    if (good) this.chosen(this.name, { low, high });
  }
}

function plain(value: number): string {
  return String(Number(value.toPrecision(4)));
}

function range(name: string, min: number, max: number): HTMLInputElement {
  const input = h("input", { type: "range", min: String(min), max: String(max), step: "1" });
  input.setAttribute("aria-label", name);
  return input;
}

function tool(
  mark: string,
  label: string,
  key: string,
  act: () => void,
  bare = false,
): HTMLButtonElement {
  return h(
    "button",
    { type: "button", class: "tool", title: `${label} (${key})`, "aria-label": label, onclick: act },
    icon(mark),
    bare ? null : h("span", { class: "word" }, label),
  );
}
