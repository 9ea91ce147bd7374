/** The dialog from which everything can be taken away: figure, numbers, volumes, files. */

import { api, ask, download, ServiceError } from "./api";
import type { Job, Picture, Product, Report } from "./api";
import { fill, h } from "./elements";
import { bytes } from "./format";
import { problemBox } from "./notices";
import { question } from "./regions";
import type { Marks } from "./view";

/** What the dialog takes from the page. */
export interface Saved {
  figure: (kind: "png" | "svg") => Promise<Blob>;
  marks: Marks;
  /** What the first pane shows, and which sample. */
  picture: () => [Picture, number];
}

/** Hand a file to the browser's downloads. */
export function hand(blob: Blob, name: string): void {
  const address = URL.createObjectURL(blob);
  const link = h("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

export class Saving {
  readonly element: HTMLDialogElement;
  private readonly said = h("div", { "aria-live": "polite" });
  private readonly body = h("div", { class: "saving" });

  constructor(
    private readonly job: Job,
    private readonly summary: Report,
    private readonly source: Saved,
  ) {
    const close = h("button", { type: "button", onclick: () => this.element.close() }, "Close");
    this.element = h(
      "dialog",
      { class: "card dialog", "aria-labelledby": "saving-head" },
      h("h2", { id: "saving-head" }, "Save"),
      this.body,
      this.said,
      close,
    );
  }

  async open(): Promise<void> {
    fill(this.said);
    this.draw([]);
    this.element.showModal();
    try {
      this.draw((await api.products(this.job.id)).items);
    } catch (error) {
      fill(this.said, problemBox(error));
    }
  }

  private draw(results: Product[]): void {
    const { job, source } = this;
    const [picture, sample] = source.picture();
    const regions = source.marks.A !== null || source.marks.B !== null;
    const of = (name: string) => results.find((result) => result.name === name);
    const placeless =
      "Missing: the scan does not say where its images lie or how large their voxels are.";
    const product = (name: string, label: string) => {
      const found = of(name);
      const act = found && (() => download(found, `${job.id}-${name}`));
      return this.button(label, act ?? null, results.length && !found ? placeless : "");
    };
    const which = picture.name === "sample" ? `${picture.name}-${sample}` : picture.name;
    fill(
      this.body,
      part(
        "Figure",
        "The panes as they are seen, with colour bars, scale bar, regions and line.",
        this.button("PNG", async () => hand(await source.figure("png"), `${job.id}.png`)),
        this.button("SVG", async () => hand(await source.figure("svg"), `${job.id}.svg`)),
      ),
      part(
        "Regions",
        regions ? "The numbers of regions A and B in every slice, or row or column of their plane." : "Draw a region first.",
        this.button(
          "CSV",
          regions
            ? async () => hand(await regionsCsv(job.id, this.summary, source.marks), `${job.id}-regions.csv`)
            : null,
        ),
      ),
      part(
        "For other programs",
        "Volumes and series that know where they lie in the patient.",
        product("mean.nii.gz", "NIfTI, mean"),
        product("std.nii.gz", "NIfTI, std."),
        product("dicom.zip", "DICOM"),
      ),
      part(
        "This picture",
        "All slices as on the screen; it does not know where it lies in the patient.",
        this.button(`NIfTI, ${picture.label}`, async () => {
          const query = picture.name === "sample" ? `?sample=${sample}` : "";
          hand(await (await ask(picture.href + query)).blob(), `${job.id}-${which}.nii`);
        }),
      ),
      results.length === 0 ? null : h("h3", {}, "All files"),
      results.length === 0 ? null : filesTable(job, results, this.said),
    );
  }

  private button(
    label: string,
    act: (() => Promise<unknown>) | null,
    reason = "",
  ): HTMLButtonElement {
    const button = h("button", { type: "button", class: "small", disabled: act === null }, label);
    if (reason) button.title = reason;
    button.addEventListener("click", () => {
      button.disabled = true;
      fill(this.said);
      (act?.() ?? Promise.resolve())
        .catch((error: unknown) => fill(this.said, problemBox(error)))
        .finally(() => (button.disabled = false));
    });
    return button;
  }
}

function part(name: string, words: string, ...buttons: HTMLElement[]): HTMLElement {
  return h(
    "section",
    { class: "save-part" },
    h("div", {}, h("h3", {}, name), h("p", { class: "faint" }, words)),
    h("div", { class: "row start" }, ...buttons),
  );
}

/** All products, each with a button. */
export function filesTable(job: Job, results: Product[], said: HTMLElement): HTMLElement {
  const rows = results.map((result) => {
    const get = h("button", { type: "button", class: "small" }, "Download");
    get.setAttribute("aria-label", `Download ${result.name}`);
    get.addEventListener("click", () => {
      get.disabled = true;
      download(result, `${job.id}-${result.name}`)
        .catch((error: unknown) => fill(said, problemBox(error)))
        .finally(() => (get.disabled = false));
    });
    const cells = [h("code", {}, result.name), result.contents, bytes(result.bytes), get];
    return h("tr", {}, ...cells.map((cell) => h("td", {}, cell)));
  });
  return h("table", { class: "files" }, h("tbody", {}, ...rows));
}

/** What the service says of the regions in every slice, row or column, as a table. */
async function regionsCsv(job: string, summary: Report, { A, B }: Marks): Promise<Blob> {
  const [first, other, name] = A !== null ? [A, B, "A"] : [B, null, "B"];
  if (first === null) throw new Error("there is no region");
  const { plane } = first;
  const second = other?.plane === plane ? other : null;
  const lines = [
    `${plane.slice(0, -1)},region,pixels,mean,std,low_90,high_90,mc_error,samples,method`,
  ];
  const numbers = summary.slices.map(({ slice }) => slice);
  const [rows, columns] = summary.image?.shape ?? [0, 0];
  const across = [...Array(plane === "rows" ? rows : columns).keys()];
  for (const place of plane === "slices" ? numbers : across) {
    let answer;
    try {
      answer = await api.roi(job, question(first, second, place, null, numbers[0] ?? 0));
    } catch (error) {
      // A region may lie outside of a picture; then it has no numbers.
      if (error instanceof ServiceError && error.status === 422) continue;
      throw error;
    }
    const rows = [
      [name, answer.region],
      ["B", answer.reference],
      ["A-B", answer.difference],
    ] as const;
    for (const [region, value] of rows) {
      if (value === null) continue;
      const { mean, std, low, high, mc_error: error, samples, method } = value;
      const pixels = region === name ? answer.pixels : "";
      lines.push([place, region, pixels, mean, std, low, high, error, samples, method].join(","));
    }
  }
  return new Blob([`${lines.join("\n")}\n`], { type: "text/csv" });
}
