/** The panel that takes scans: drop or choose files, choose how to reconstruct, watch them leave. */

import { api, ServiceError } from "./api";
import type { Model, NewReconstruction, Preset, Scan } from "./api";
import { fill, h } from "./elements";
import { rememberFileName } from "./file-names";
import { bytes, percent } from "./format";
import { problemBox } from "./notices";
import { upload } from "./upload";

const PATIENCE = 2000;

/** How to reconstruct, whichever scan it will be. */
type Wanted = Omit<NewReconstruction, "scan_id">;

/** The panel; `queued` is called when a job has been submitted. */
export async function submitPanel(signal: AbortSignal, queued: () => void): Promise<HTMLElement> {
  const [models, presets] = await offers(signal);
  const choices = new Choices(models.items, models.default, presets.items, presets.default);
  const sending = h("ul", { class: "sending", "aria-label": "Uploads" });
  let line: Promise<void> = Promise.resolve();

  const take = (files: Iterable<File>) => {
    for (const file of files) {
      const item = new Sending(file, choices.request(), choices.calibration(), signal, queued);
      sending.append(item.element);
      line = line.then(() => item.run());
    }
  };
  return h(
    "aside",
    { class: "card submit", "aria-labelledby": "submit-head" },
    h("h2", { id: "submit-head" }, "New reconstruction"),
    choices.element,
    dropZone(take),
    sending,
  );
}

/** What the workers offer; right after a start they have not said yet. */
async function offers(
  signal: AbortSignal,
): Promise<
  [{ items: Model[]; default: string }, { items: Record<string, Preset>; default: string }]
> {
  for (;;) {
    try {
      return await Promise.all([api.models(), api.presets()]);
    } catch (error) {
      if (!(error instanceof ServiceError) || error.status !== 503 || signal.aborted) throw error;
      await new Promise((resolve) => setTimeout(resolve, PATIENCE));
    }
  }
}

function dropZone(take: (files: Iterable<File>) => void): HTMLElement {
  const input = h("input", { type: "file", id: "scan", multiple: true, accept: ".h5,.hdf5,.mrd,.dat,.npy,.npz,.mat" });
  input.addEventListener("change", () => {
    take([...(input.files ?? [])]);
    input.value = "";
  });
  const zone = h(
    "label",
    { class: "drop", for: "scan" },
    h("strong", {}, "Drop scans here"),
    h("span", {}, "or choose files"),
    h("span", { class: "faint" }, "undersampled k-space: ISMRMRD, fastMRI, Siemens, NumPy"),
    input,
  );
  const over = (is: boolean) => zone.classList.toggle("over", is);
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  zone.addEventListener("dragleave", () => over(false));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    over(false);
    take([...(event.dataTransfer?.files ?? [])]);
  });
  return zone;
}

/** Model, preset, samples and the rest. */
class Choices {
  readonly element: HTMLElement;
  private readonly model: HTMLSelectElement;
  private readonly presets: HTMLInputElement[] = [];
  private readonly samples = h("input", { id: "samples", type: "number", min: "2", max: "256" });
  private readonly slices = h("input", { id: "slices", placeholder: "all", maxlength: "200" });
  private readonly volume = h("input", { id: "volume", type: "checkbox" });
  private readonly label = h("input", { id: "label", maxlength: "128", placeholder: "none" });
  private readonly seed = h("input", { id: "seed", type: "number", min: "0", value: "0" });
  private readonly layout = h("input", { id: "layout", maxlength: "32", placeholder: "by content" });
  private readonly axes = h("input", { id: "axes", maxlength: "200", placeholder: "by layout" });
  private readonly centre = h(
    "select",
    { id: "fftshift" },
    h("option", { value: "" }, "refuse"),
    h("option", { value: "true" }, "move to the middle"),
    h("option", { value: "false" }, "take as it is"),
  );
  private readonly lines = h("input", { id: "calibration", type: "file" });

  constructor(models: Model[], model: string, presets: Record<string, Preset>, preset: string) {
    const options = models.map(({ id }) =>
      h("option", { value: id, selected: id === model }, id === model ? `${id} (default)` : id),
    );
    this.model = h("select", { id: "model" }, ...options);
    const segments = Object.entries(presets).map(([name, { samples }]) => {
      const radio = h("input", { type: "radio", name: "preset", value: name });
      radio.checked = name === preset;
      radio.addEventListener("change", () => (this.samples.placeholder = String(samples)));
      if (radio.checked) this.samples.placeholder = String(samples);
      this.presets.push(radio);
      return h("label", {}, radio, h("span", {}, name));
    });
    this.element = h(
      "div",
      { class: "form" },
      h("label", { for: "model" }, "Model"),
      this.model,
      h("span", { id: "preset-head", class: "label" }, "Preset"),
      h(
        "div",
        { class: "segments", role: "radiogroup", "aria-labelledby": "preset-head" },
        ...segments,
      ),
      h(
        "div",
        { class: "pair" },
        h("div", {}, h("label", { for: "samples" }, "Samples"), this.samples),
        h("div", {}, h("label", { for: "slices" }, "Slices"), this.slices),
        h("div", {}, h("label", { for: "label" }, "Label"), this.label),
        h("div", {}, h("label", { for: "seed" }, "Seed"), this.seed),
      ),
      h(
        "div",
        { class: "check", title: "For scans with two phase encodings and voxels that are nearly cubes" },
        this.volume,
        h("label", { for: "volume" }, "As one volume, where encoded in 3-D"),
      ),
      h(
        "details",
        {},
        h("summary", {}, "How the file is read"),
        h(
          "div",
          { class: "form" },
          h(
            "div",
            { class: "pair" },
            h("div", {}, h("label", { for: "layout" }, "Layout"), this.layout),
            h("div", {}, h("label", { for: "axes" }, "Axes"), this.axes),
          ),
          h("label", { for: "fftshift" }, "K-space that is not centred"),
          this.centre,
          h("label", { for: "calibration" }, "Calibration lines from another file"),
          this.lines,
        ),
      ),
      h("p", { class: "faint" }, "File names are not sent. Keep patients' names out of labels."),
    );
  }

  /** The file whose lines make the coil maps, if one was chosen. */
  calibration(): File | null {
    return this.lines.files?.[0] ?? null;
  }

  request(): Wanted {
    const request: Wanted = {
      model: this.model.value,
      preset: (this.presets.find((radio) => radio.checked)?.value ?? null) as Wanted["preset"] & string,
      seed: Number(this.seed.value || 0),
    };
    if (this.samples.value) request.samples = Number(this.samples.value);
    if (this.slices.value.trim()) request.slices = this.slices.value.trim();
    if (this.volume.checked) request.volume = true;
    if (this.layout.value.trim()) request.layout = this.layout.value.trim();
    if (this.axes.value.trim()) request.axes = this.axes.value.trim();
    if (this.centre.value) request.fftshift = this.centre.value === "true";
    if (this.label.value.trim()) request.tags = { label: this.label.value.trim() };
    return request;
  }
}

/** One file on its way, and before it the one with its calibration lines. */
class Sending {
  readonly element: HTMLLIElement;
  private readonly stop = new AbortController();
  private readonly bar = h("progress", { max: "1", value: 0 });
  private readonly words = h("span", { class: "faint", role: "status" }, "waiting");
  private readonly end: HTMLButtonElement;

  constructor(
    private readonly file: File,
    private readonly request: Wanted,
    private readonly lines: File | null,
    page: AbortSignal,
    private readonly queued: () => void,
  ) {
    page.addEventListener("abort", () => this.stop.abort());
    this.bar.setAttribute("aria-label", `Upload of ${file.name}`);
    this.end = h(
      "button",
      { type: "button", class: "small", onclick: () => this.stop.abort() },
      "Stop",
    );
    this.element = h(
      "li",
      {},
      h("div", { class: "row" }, h("span", { class: "file", title: file.name }, file.name), this.end),
      this.bar,
      this.words,
    );
  }

  async run(): Promise<void> {
    try {
      this.stop.signal.throwIfAborted();
      const request = { ...this.request };
      if (this.lines !== null) request.calibration_scan_id = (await this.upload(this.lines)).id;
      const scan = await this.upload(this.file);
      const job = await api.submit({ ...request, scan_id: scan.id });
      rememberFileName(job.id, this.file.name);
      this.queued();
      this.element.remove();
    } catch (error) {
      if (this.stop.signal.aborted) {
        this.element.remove();
        return;
      }
      const dismiss = h(
        "button",
        { type: "button", class: "small", onclick: () => this.element.remove() },
        "Dismiss",
      );
      const name = h("span", { class: "file", title: this.file.name }, this.file.name);
      fill(this.element, h("div", { class: "row" }, name, dismiss), problemBox(error));
    }
  }

  private upload(file: File): Promise<Scan> {
    const { layout, axes } = this.request;
    const sent = (count: number) => {
      const share = count / file.size;
      this.bar.value = share;
      this.words.textContent =
        share < 1 ? `${percent(share)} of ${bytes(file.size)}` : "checking the file";
    };
    const reading = { ...(layout && { layout }), ...(axes && { axes }) };
    return upload(file, sent, this.stop.signal, reading);
  }
}
