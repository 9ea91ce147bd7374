/** What the service says of the regions: numbers from the samples, not from the maps. */

import { api, ServiceError } from "./api";
import type { Interval, PlaneName, RegionAnswer, Report } from "./api";
import { fill, h } from "./elements";
import { family, percent } from "./format";
import type { Family } from "./format";
import { question as questionOf } from "./regions";
import type { Region } from "./regions";
import type { Slot } from "./view";

const CALM = 120;
const PICTURES = { slices: "slice of index", rows: "row", columns: "column" };

export class RegionPanel {
  readonly element = h("section", { class: "panel", "aria-labelledby": "regions-head" });
  private readonly answer = h("div", { "aria-live": "polite" });
  private readonly slots: Record<Slot, HTMLInputElement>;
  private readonly removers: Record<Slot, HTMLButtonElement>;
  private readonly through = h("input", { id: "through", type: "number", step: "1", placeholder: "this one" });
  private readonly throughWords = h("label", { for: "through", class: "faint" });
  /** The number of the last picture of each plane. */
  private readonly last: Record<PlaneName, number>;
  private readonly first: number;
  private plane: PlaneName | null = null;
  private timer = 0;
  private question = 0;

  /** `asked` is called when the pictures to reach through have changed. */
  constructor(
    private readonly job: string,
    { slices, image }: Report,
    choose: (slot: Slot) => void,
    remove: (slot: Slot) => void,
    asked: () => void,
  ) {
    const [rows, columns] = image?.shape ?? [1, 1];
    this.first = slices[0]?.slice ?? 0;
    this.last = { slices: slices.at(-1)?.slice ?? 0, rows: rows - 1, columns: columns - 1 };
    this.lieIn("slices");
    this.through.addEventListener("input", asked);
    const radio = (slot: Slot) => {
      const input = h("input", { type: "radio", name: "slot", value: slot });
      input.addEventListener("change", () => choose(slot));
      return input;
    };
    this.slots = { A: radio("A"), B: radio("B") };
    const remover = (slot: Slot) =>
      h(
        "button",
        {
          type: "button",
          class: "small",
          disabled: true,
          "aria-label": `Remove region ${slot}`,
          onclick: () => remove(slot),
        },
        "Remove",
      );
    this.removers = { A: remover("A"), B: remover("B") };
    const line = (slot: Slot, meaning: string) =>
      h(
        "div",
        { class: "row" },
        h(
          "label",
          { class: "slot" },
          this.slots[slot],
          h("span", { class: `swatch ${slot}` }, slot),
          h("span", { class: "faint" }, meaning),
        ),
        this.removers[slot],
      );
    fill(
      this.element,
      h("h2", { id: "regions-head" }, "Regions"),
      line("A", "region"),
      line("B", "to compare with"),
      slices.length < 2 ? null : h("div", { class: "row" }, this.throughWords, this.through),
      this.answer,
    );
    this.choose("A");
    this.invite();
  }

  choose(slot: Slot): void {
    this.slots[slot].checked = true;
  }

  /** Ask about what is drawn, once nobody has changed it for a moment; `seen` in each plane. */
  ask(seen: Record<PlaneName, number>, regions: Record<Slot, Region | null>): void {
    for (const slot of ["A", "B"] as const) this.removers[slot].disabled = regions[slot] === null;
    clearTimeout(this.timer);
    this.question += 1;
    const { A, B } = regions;
    const [first, second, name] = A !== null ? [A, B, "A"] : [B, null, "B"];
    if (first === null) {
      this.invite();
      return;
    }
    this.lieIn(first.plane);
    this.through.min = String(seen[first.plane]);
    this.element.setAttribute("aria-busy", "true");
    this.timer = window.setTimeout(() => {
      void this.fetch(this.question, seen[first.plane], first, second, name as Slot);
    }, CALM);
  }

  /** The last picture of a region that begins in picture `place`, or null: it lies in one. */
  reach(plane: PlaneName, place: number): number | null {
    const value = Number(this.through.value);
    const several = this.plane === plane && this.through.value !== "" && value > place;
    return several ? Math.min(Math.trunc(value), this.last[plane]) : null;
  }

  /** What is asked about lies in pictures of this plane. */
  private lieIn(plane: PlaneName): void {
    if (plane === this.plane) return;
    this.plane = plane;
    this.through.value = "";
    this.through.max = String(this.last[plane]);
    this.throughWords.textContent = `through to ${PICTURES[plane]}`;
  }

  private invite(): void {
    this.element.removeAttribute("aria-busy");
    fill(
      this.answer,
      h(
        "p",
        { class: "faint" },
        "Draw a rectangle (R), an ellipse (E) or a polygon (P) on the picture to read its mean, ",
        "how sure that is, and how it differs from a second region.",
      ),
    );
  }

  private async fetch(
    question: number,
    place: number,
    first: Region,
    second: Region | null,
    name: Slot,
  ): Promise<void> {
    const { plane } = first;
    const last = this.reach(plane, place);
    const other = second?.plane === plane ? second : null;
    const which = plane === "slices" ? "" : `, ${words(plane, place, last)},`;
    const apart = second === other ? "" : "B lies in another plane and is not compared. ";
    try {
      const answer = await api.roi(this.job, questionOf(first, other, place, last, this.first));
      if (question === this.question) this.show(answer, `${which} in ${name}. ${apart}`, name);
    } catch (error) {
      if (question !== this.question) return;
      const detail = error instanceof ServiceError ? error.problem.detail : String(error);
      fill(this.answer, h("p", { class: "warning", role: "alert" }, detail));
    } finally {
      if (question === this.question) this.element.removeAttribute("aria-busy");
    }
  }

  private show(answer: RegionAnswer, where: string, name: Slot): void {
    const { region, reference, difference } = answer;
    const all = [region, reference, difference].filter((value) => value !== null);
    const write = family(
      Math.max(...all.map(({ mean }) => Math.abs(mean))),
      Math.min(...all.flatMap(({ std, mc_error: error }) => [std, error])),
    );
    const rows = [row(name, region, "region", write)];
    if (reference) rows.push(row("B", reference, "reference", write));
    if (difference) rows.push(row("A − B", difference, "difference", write));
    const { method, samples } = answer.region;
    const how = method === "quantiles" ? "quantiles of" : "Student's t over";
    const level = percent(answer.level);
    fill(
      this.answer,
      h(
        "table",
        { class: "numbers" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, h("span", { class: "sr-only" }, "Region")),
            h("th", { scope: "col" }, "mean ± std"),
            h("th", { scope: "col" }, `${level} interval`),
            h("th", { scope: "col", title: "Monte Carlo error of the mean" }, "MC err."),
          ),
        ),
        h("tbody", {}, ...rows),
      ),
      difference ? verdict(difference, level) : null,
      h(
        "p",
        { class: "faint" },
        `${answer.pixels} ${answer.slices > 1 ? `voxels of ${answer.slices} slices` : "pixels"}${where}` +
          (answer.joint
            ? ""
            : "The slices were sampled one by one: an interval through several is too narrow. ") +
          `Intervals: ${how} ${samples} samples. In ${write.power ? `${write.power} of the` : "the"} units of the scan (a.u.).`,
      ),
    );
  }
}

function words(plane: "rows" | "columns", place: number, last: number | null): string {
  return last === null ? `${PICTURES[plane]} ${place}` : `${plane} ${place} to ${last}`;
}

function row(name: string, value: Interval, what: string, write: Family): HTMLElement {
  return h(
    "tr",
    { "data-what": what, "data-mean": value.mean, "data-std": value.std },
    h("th", { scope: "row" }, h("span", { class: `swatch ${name.length === 1 ? name : ""}` }, name)),
    h("td", {}, `${write.text(value.mean)} ± ${write.text(value.std)}`),
    h("td", { class: "wraps" }, `${write.text(value.low)} to\u00a0${write.text(value.high)}`),
    h("td", {}, write.text(value.mc_error)),
  );
}

/** The interval of the difference in words; no claim beyond the interval. */
function verdict(difference: Interval, level: string): HTMLElement {
  const clear = difference.low > 0 || difference.high < 0;
  const words = clear
    ? `The ${level} interval of the difference excludes 0.`
    : `The ${level} interval of the difference includes 0: these samples do not tell them apart.`;
  return h("p", { class: clear ? "" : "caution" }, words);
}
