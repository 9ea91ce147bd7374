/** A vertical bar that says which colour is which value. */

import type { Picture } from "./api";
import { fill, h } from "./elements";
import { number } from "./format";
import type { Window } from "./volume";

const STEPS = 128;

export class ColourBar {
  readonly element = h("figure", { class: "colour-bar", hidden: true });
  private readonly strip = h("canvas", { width: "1", height: String(STEPS), "aria-hidden": "true" });
  private readonly high = h("span");
  private readonly middle = h("span");
  private readonly low = h("span");
  private readonly caption = h("figcaption");

  constructor() {
    const labels = h("div", { class: "labels" }, this.high, this.middle, this.low);
    this.element.append(this.caption, h("div", { class: "bar" }, this.strip, labels));
  }

  show(picture: Picture | null, window: Window): void {
    this.element.hidden = picture === null;
    if (picture === null) return;
    const unit = picture.unit ? ` (${picture.unit})` : "";
    fill(this.caption, picture.label + unit);
    this.low.textContent = number(window.low);
    this.middle.textContent = number((window.low + window.high) / 2);
    this.high.textContent = number(window.high);
    const context = this.strip.getContext("2d");
    if (context === null) return;
    const { colours } = picture;
    const gradient = context.createLinearGradient(0, STEPS, 0, 0);
    colours.forEach(([r, g, b], at) =>
      gradient.addColorStop(at / (colours.length - 1), `rgb(${r} ${g} ${b})`),
    );
    context.fillStyle = gradient;
    context.fillRect(0, 0, 1, STEPS);
  }
}
