/** The controls beside the stage. They only say what was chosen; the workspace decides. */

import type { Picture, Report } from "./api";
import { fill, h } from "./elements";
import { number } from "./format";
import { icon } from "./icons";
import type { Layer } from "./renderer";
import type { Tool } from "./stage";
import type { Window } from "./volume";

export interface Choices {
  pictureChosen: (picture: Picture) => void;
  overlayChosen: (picture: Picture | null) => void;
  opacityChosen: (value: number) => void;
  sampleChosen: (sample: number) => void;
  sliceChosen: (position: number) => void;
  windowChosen: (window: Window, overlay: boolean) => void;
  automatic: () => void;
  played: () => void;
  toolChosen: (tool: Tool) => void;
  /** A factor; 0 fits the slice. */
  zoomed: (factor: number) => void;
  smoothed: () => void;
  helped: () => void;
}

export interface Shown {
  base: Layer;
  overlay: Layer | null;
  position: number;
  slice: number;
  sample: number;
  opacity: number;
}

const TOOLS: [Tool, string, string][] = [
  ["window", "Window", "W"],
  ["pan", "Move", "V"],
  ["rectangle", "Rectangle", "R"],
  ["ellipse", "Ellipse", "E"],
  ["polygon", "Polygon", "P"],
];

export class Controls {
  readonly toolbar: HTMLElement;
  readonly choices: HTMLElement;
  readonly slices: HTMLElement;
  private readonly tools = new Map<Tool, HTMLButtonElement>();
  private readonly radios = new Map<string, HTMLInputElement>();
  private readonly overlay: HTMLSelectElement;
  private readonly opacity = range("Opacity of the overlay", 0, 100);
  private readonly slice: HTMLInputElement;
  private readonly sliceWords = h("output", { for: "slice" });
  private readonly sample: HTMLInputElement;
  private readonly sampleWords = h("output", { for: "sample" });
  private readonly playButton: HTMLButtonElement;
  private readonly smoothButton: HTMLButtonElement;
  private readonly meaning = h("p", { class: "faint meaning" });
  private readonly windows: { base: WindowFields; overlay: WindowFields };

  constructor(
    private readonly pictures: Picture[],
    report: Report,
    private readonly events: Choices,
  ) {
    this.smoothButton = tool("smooth", "Smooth", "I", () => events.smoothed());
    this.smoothButton.setAttribute("aria-pressed", "false");
    this.toolbar = this.makeToolbar();

    this.slice = range("Slice", 0, report.slices.length - 1);
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
      this.sliceWords,
    );
    this.slices.classList.toggle("one", report.slices.length === 1);

    const overlays = pictures.filter(({ overlay, missing }) => overlay && missing === null);
    this.overlay = h(
      "select",
      { id: "overlay" },
      h("option", { value: "" }, "none"),
      ...overlays.map(({ name, label }) => h("option", { value: name }, label)),
    );
    this.overlay.addEventListener("change", () =>
      events.overlayChosen(overlays.find(({ name }) => name === this.overlay.value) ?? null),
    );
    this.opacity.addEventListener("input", () =>
      events.opacityChosen(this.opacity.valueAsNumber / 100),
    );

    this.sample = range("Sample", 0, report.samples - 1);
    this.sample.id = "sample";
    this.sample.addEventListener("input", () => events.sampleChosen(this.sample.valueAsNumber));
    this.playButton = h("button", { type: "button", class: "small" }, "▶ Play");
    this.playButton.addEventListener("click", () => events.played());

    this.windows = {
      base: new WindowFields("Picture", (window) => events.windowChosen(window, false)),
      overlay: new WindowFields("Overlay", (window) => events.windowChosen(window, true)),
    };
    this.choices = this.makeChoices();
  }

  tool(chosen: Tool): void {
    for (const [name, button] of this.tools) {
      button.setAttribute("aria-pressed", String(name === chosen));
    }
  }

  playing(is: boolean): void {
    this.playButton.textContent = is ? "◼ Stop" : "▶ Play";
  }

  smooth(is: boolean): void {
    this.smoothButton.setAttribute("aria-pressed", String(is));
  }

  /** Show what is drawn. */
  say(shown: Shown): void {
    const radio = this.radios.get(shown.base.picture.name);
    if (radio) radio.checked = true;
    this.overlay.value = shown.overlay?.picture.name ?? "";
    this.opacity.value = String(Math.round(100 * shown.opacity));
    this.opacity.disabled = shown.overlay === null;
    this.slice.value = String(shown.position);
    this.slice.setAttribute("aria-valuetext", `slice ${shown.slice}`);
    const last = Number(this.slice.max) + 1;
    this.sliceWords.textContent = last > 1 ? `${shown.slice} (${shown.position + 1} of ${last})` : `${shown.slice} (the only one)`;
    this.sample.value = String(shown.sample);
    this.sample.setAttribute("aria-valuetext", `sample ${shown.sample + 1}`);
    this.sampleWords.textContent = `${shown.sample + 1} of ${Number(this.sample.max) + 1}`;
    fill(this.meaning, shown.base.picture.meaning + ".");
    if (shown.overlay) this.meaning.append(` On top: ${shown.overlay.picture.meaning}.`);
    this.windows.base.say(shown.base);
    this.windows.overlay.say(shown.overlay);
  }

  private makeToolbar(): HTMLElement {
    const buttons = TOOLS.map(([name, label, key]) => {
      const button = tool(name, label, key, () => this.events.toolChosen(name));
      this.tools.set(name, button);
      return button;
    });
    return h(
      "div",
      { class: "toolbar", role: "toolbar", "aria-label": "Tools" },
      h("div", { class: "group" }, ...buttons.slice(0, 2)),
      h("div", { class: "group" }, ...buttons.slice(2)),
      h(
        "div",
        { class: "group" },
        tool("smaller", "Smaller", "−", () => this.events.zoomed(0.8), true),
        tool("fit", "Fit", "F", () => this.events.zoomed(0)),
        tool("larger", "Larger", "+", () => this.events.zoomed(1.25), true),
      ),
      h("div", { class: "group" }, this.smoothButton, tool("automatic", "Auto", "A", () => this.events.automatic())),
      tool("help", "Keyboard", "?", () => this.events.helped()),
    );
  }

  private makeChoices(): HTMLElement {
    const options = this.pictures.map((picture, at) => {
      const radio = h("input", { type: "radio", name: "picture", value: picture.name });
      radio.disabled = picture.missing !== null;
      radio.addEventListener("change", () => this.events.pictureChosen(picture));
      this.radios.set(picture.name, radio);
      const key = at < 10 ? h("kbd", { "aria-hidden": "true" }, (at + 1) % 10) : null;
      return h("label", { title: picture.missing ?? picture.meaning }, radio, h("span", {}, picture.label, key));
    });
    return h(
      "section",
      { class: "panel", "aria-labelledby": "picture-head" },
      h("h2", { id: "picture-head" }, "Picture"),
      h(
        "div",
        { class: "pictures", role: "radiogroup", "aria-labelledby": "picture-head" },
        ...options,
      ),
      h(
        "div",
        { class: "line" },
        h("label", { for: "sample" }, "Sample"),
        this.sample,
        this.sampleWords,
        this.playButton,
      ),
      h(
        "div",
        { class: "line" },
        h("label", { for: "overlay" }, "Overlay"),
        this.overlay,
        this.opacity,
      ),
      this.meaning,
      h("details", { class: "windows" }, h("summary", {}, "Window"), this.windows.base.element, this.windows.overlay.element),
    );
  }
}

/** Both ends of a window as numbers, for those who do not drag. */
class WindowFields {
  readonly element: HTMLElement;
  private readonly low = h("input", { type: "text", inputmode: "decimal" });
  private readonly high = h("input", { type: "text", inputmode: "decimal" });

  constructor(
    name: string,
    private readonly chosen: (window: Window) => void,
  ) {
    this.low.setAttribute("aria-label", `${name}: value of the darkest colour`);
    this.high.setAttribute("aria-label", `${name}: value of the brightest colour`);
    for (const field of [this.low, this.high]) {
      field.addEventListener("change", () => this.read());
    }
    this.element = h("div", { class: "line" }, h("span", { class: "label" }, name), this.low, h("span", {}, "to"), this.high);
  }

  say(layer: Layer | null): void {
    this.element.hidden = layer === null;
    if (layer === null) return;
    for (const [field, value] of [
      [this.low, layer.window.low],
      [this.high, layer.window.high],
    ] as const) {
      if (field !== document.activeElement) field.value = plain(value);
      field.title = number(value);
    }
  }

  private read(): void {
    const low = Number(this.low.value.replace(",", "."));
    const high = Number(this.high.value.replace(",", "."));
    const good = Number.isFinite(low) && Number.isFinite(high) && high > low;
    this.element.classList.toggle("wrong", !good);
    if (good) this.chosen({ low, high });
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
