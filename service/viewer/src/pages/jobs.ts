/** All reconstructions: send a scan, see how far each is, find those that matter. */

import { api, ended } from "../api";
import type { Counts, Job, JobQuery, JobState, Priority } from "../api";
import { fill, h } from "../elements";
import { follow } from "../events";
import { duration, moment } from "../format";
import { fileName } from "../file-names";
import { jobName, problemBox, progressBar, stateBadge } from "../notices";
import { title } from "../page";
import type { Page } from "../page";
import { submitPanel } from "../submit";
import { thumbnail } from "../thumbnails";
import { distrust, verdictBadge } from "../verdict";

const STATES: JobState[] = ["running", "queued", "succeeded", "failed", "cancelled"];
const PRIORITIES: Priority[] = ["scanner", "interactive", "archive"];
const PAGE = 30;
/** So many are looked through when somebody searches or sorts. */
const MOST = 2000;
const POLL = 3000;
/** A browser opens few connections to one host; the rest of the jobs is polled. */
const STREAMS = 2;

/** Of the sample scan, in mm. */
const VOXEL: [number, number, number] = [1.8, 1.8, 5];

type Order = (a: Job, b: Job) => number;

const newest: Order = (a, b) => (a.id < b.id ? 1 : -1);
const ORDERS: Record<string, [words: string, order: Order]> = {
  newest: ["newest first", newest],
  oldest: ["oldest first", (a, b) => newest(b, a)],
  name: ["by name", (a, b) => jobName(a).localeCompare(jobName(b)) || newest(a, b)],
  longest: ["longest first", (a, b) => seconds(b) - seconds(a) || newest(a, b)],
  verdict: ["doubtful first", (a, b) => distrust(b.summary) - distrust(a.summary) || newest(a, b)],
  warnings: ["warnings first", (a, b) => warned(b) - warned(a) || newest(a, b)],
};

export const jobsPage: Page = async (main, _subject, signal) => {
  title("Reconstructions");
  const list = new JobList(signal);
  const panel = await submitPanel(signal, () => void list.refresh());
  if (signal.aborted) return;
  await list.refresh();
  if (signal.aborted) return;
  fill(main, h("div", { class: "page split jobs" }, panel, list.element));
};

class JobList {
  readonly element: HTMLElement;
  private readonly filters = h("div", { class: "filters", role: "group" });
  private readonly body = h("tbody");
  private readonly table: HTMLElement;
  private readonly empty = h("div", { class: "empty" });
  private readonly search = h("input", { type: "search", id: "search", placeholder: "Search" });
  private readonly order = h("select", { id: "order" });
  private readonly trouble = h("div", { "aria-live": "polite" });
  private readonly more = h("button", { type: "button", hidden: true }, "Show older ones");
  private readonly shown = new Map<string, { row: HTMLTableRowElement; job: Job }>();
  private readonly followed = new Set<string>();
  private states = new Set<JobState>();
  private priority: Priority | "" = "";
  private cursor: string | null = null;
  private timer = 0;
  private all = false;

  constructor(private readonly signal: AbortSignal) {
    const heads = ["Picture", "Reconstruction", "State", "Model, preset", "Submitted", "Actions"];
    const hidden = new Set(["Picture", "Actions"]);
    this.table = h(
      "table",
      { class: "jobs" },
      h(
        "thead",
        {},
        h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, hidden.has(head) ? srOnly(head) : head))),
      ),
      this.body,
    );
    this.filters.setAttribute("aria-label", "Show only");
    this.search.setAttribute("aria-label", "Search names, files, ids, models and states");
    this.order.setAttribute("aria-label", "Order");
    for (const [value, [words]] of Object.entries(ORDERS)) {
      this.order.append(h("option", { value }, words));
    }
    this.search.addEventListener("input", () => void this.arrange());
    this.order.addEventListener("change", () => void this.arrange());
    this.more.addEventListener("click", () => void this.load(this.cursor));
    this.element = h(
      "section",
      { class: "list", "aria-labelledby": "list-head" },
      h("div", { class: "list-head" }, h("h1", { id: "list-head" }, "Reconstructions"), h("div", { class: "finding" }, this.search, this.order)),
      this.filters,
      this.trouble,
      this.table,
      this.empty,
      this.more,
    );
    signal.addEventListener("abort", () => clearTimeout(this.timer));
  }

  /** Ask again for the newest, now and every few seconds. */
  async refresh(): Promise<void> {
    clearTimeout(this.timer);
    await this.load(null);
    if (!this.signal.aborted) this.timer = window.setTimeout(() => void this.refresh(), POLL);
  }

  private async load(before: string | null): Promise<void> {
    const state: JobState[] = [...this.states];
    if (this.states.has("running")) state.push("cancelling");
    const query: JobQuery = { limit: PAGE, state };
    if (this.priority !== "") query.priority = this.priority;
    if (before !== null) query.cursor = before;
    try {
      const [page, { counts }] = await Promise.all([
        api.jobs(query, this.signal),
        api.counts(),
      ]);
      fill(this.trouble);
      this.drawFilters(counts);
      if (before === null && this.shown.size <= PAGE) this.cursor = page.next_cursor;
      if (before !== null) this.cursor = page.next_cursor;
      this.more.hidden = this.cursor === null;
      this.place(page.items, before !== null);
    } catch (error) {
      if (this.signal.aborted) return;
      if (this.shown.size === 0) throw error;
      fill(this.trouble, problemBox(error));
    }
  }

  private place(jobs: Job[], append: boolean): void {
    const fresh = new Set(jobs.map((job) => job.id));
    if (!append) {
      const oldest = jobs.at(-1)?.id ?? "";
      for (const [id, { row }] of this.shown) {
        // Rows of older pages stay; rows of this page that are gone do not.
        if (!fresh.has(id) && (id > oldest || jobs.length < PAGE)) {
          row.remove();
          this.shown.delete(id);
        }
      }
    }
    for (const job of jobs) this.update(job);
    this.sort();
    this.followSome();
  }

  /** Search and order are of all jobs, so all are fetched before the first of them. */
  private async arrange(): Promise<void> {
    const asked = this.search.value.trim() !== "" || this.order.value !== "newest";
    if (asked && !this.all) {
      this.all = true;
      while (this.cursor !== null && this.shown.size < MOST && !this.signal.aborted) {
        const before = this.cursor;
        await this.load(before);
        if (this.cursor === before) break;
      }
    }
    this.sort();
  }

  private sort(): void {
    const [, order] = ORDERS[this.order.value] ?? ["", newest];
    const words = this.search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...this.shown.values()].sort((a, b) => order(a.job, b.job));
    let seen = 0;
    rows.forEach(({ row, job }, at) => {
      if (this.body.children[at] !== row) this.body.insertBefore(row, this.body.children[at] ?? null);
      const text = searched(job);
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) seen += 1;
    });
    this.table.hidden = seen === 0;
    this.empty.hidden = seen > 0;
    if (seen === 0) fill(this.empty, ...this.nothing());
  }

  private nothing(): HTMLElement[] {
    if (this.states.size || this.priority || this.search.value.trim()) {
      return [h("p", {}, "No reconstruction matches.")];
    }
    const said = h("p", { role: "status" });
    const attempt = h("button", { type: "button", class: "primary" }, "Try a sample scan");
    attempt.addEventListener("click", () => {
      attempt.disabled = true;
      said.textContent = "Simulating a head…";
      this.trySample().catch((error: unknown) => {
        attempt.disabled = false;
        fill(said, problemBox(error));
      });
    });
    return [
      h("p", { class: "large" }, "No reconstructions yet"),
      h("p", {}, "Drop an undersampled scan on the panel to make the first one. Without one at hand:"),
      h("p", {}, attempt),
      h("p", { class: "faint" }, "The service simulates a head of three slices, four times undersampled, and reconstructs it with the preset fast."),
      said,
    ];
  }

  private async trySample(): Promise<void> {
    const scan = await api.sampleScan();
    await api.submit({ scan_id: scan.id, preset: "fast", voxel_mm: VOXEL, tags: { label: "Sample scan" } });
    await this.refresh();
  }

  private update(job: Job): void {
    const known = this.shown.get(job.id);
    if (known && JSON.stringify(known.job) === JSON.stringify(job)) return;
    const row = known?.row ?? h("tr", { "data-job": job.id });
    const focused = row.contains(document.activeElement)
      ? [...row.querySelectorAll("a, button")].indexOf(document.activeElement as Element)
      : -1;
    fill(row, ...this.cells(job));
    if (focused >= 0) row.querySelectorAll<HTMLElement>("a, button")[focused]?.focus();
    this.shown.set(job.id, { row, job });
  }

  private cells(job: Job): HTMLElement[] {
    const name = jobName(job);
    const count = job.summary?.slices.length;
    const state = h("td", {}, stateBadge(job.state));
    if (!ended(job.state)) state.append(progressBar(job));
    if (job.error) state.append(h("p", { class: "detail" }, job.error.detail));
    if (job.summary) state.append(verdict(job));
    const file = fileName(job.id);
    const samples = job.summary?.samples ?? job.params.samples;
    const slices = count === undefined ? "" : `, ${count} slice${count === 1 ? "" : "s"}`;
    const here = `/view/reconstructions/${job.id}`;
    const picture = h("td", { class: "seen" });
    if (job.state === "succeeded") {
      // The name beside it is the link for those who do not see the picture.
      picture.append(h("a", { href: here, tabindex: "-1", "aria-hidden": "true" }, thumbnail(job.id)));
    }
    return [
      picture,
      h(
        "td",
        { class: "name" },
        h("a", { href: here, title: name }, name),
        file && file !== name ? h("span", { class: "faint", title: "File on this computer" }, file) : null,
        h("span", { class: "faint" }, job.id),
      ),
      state,
      h(
        "td",
        {},
        h("span", {}, job.summary?.model ?? job.model ?? "default model"),
        h("span", { class: "faint" }, `${job.preset}${samples ? `, ${samples} samples` : ""}${slices}`),
      ),
      h(
        "td",
        { class: "time" },
        h("span", {}, moment(job.created_at)),
        h("span", { class: "faint" }, took(job)),
      ),
      h("td", { class: "actions" }, ...this.actions(job, name)),
    ];
  }

  private actions(job: Job, name: string): HTMLElement[] {
    const button = (text: string, what: string, act: () => Promise<unknown>) =>
      h(
        "button",
        {
          type: "button",
          class: "small",
          "aria-label": `${what}: ${name}`,
          onclick: () => void this.act(act),
        },
        text,
      );
    if (!ended(job.state)) return [button("Cancel", "Cancel", () => api.cancel(job.id))];
    const remove = button("Delete", "Delete", async () => {
      const sure = confirm(`Delete “${name}” and its results? This cannot be undone.`);
      if (sure) await api.remove(job.id);
    });
    if (job.state === "succeeded") return [remove];
    return [button("Again", "Submit again", () => api.retry(job.id)), remove];
  }

  private async act(action: () => Promise<unknown>): Promise<void> {
    try {
      await action();
      await this.refresh();
    } catch (error) {
      fill(this.trouble, problemBox(error));
    }
  }

  private drawFilters(counts: Counts): void {
    if (this.filters.contains(document.activeElement)) {
      for (const chip of this.filters.querySelectorAll<HTMLElement>("[data-state]")) {
        const count = chip.querySelector("span");
        if (count) count.textContent = String(counts[chip.dataset.state as JobState] ?? 0);
      }
      return;
    }
    const chips = STATES.map((state) => {
      const chip = h("button", { type: "button", class: "chip", "data-state": state }, state, " ");
      chip.append(h("span", {}, counts[state] ?? 0));
      chip.setAttribute("aria-pressed", String(this.states.has(state)));
      chip.addEventListener("click", () => {
        if (!this.states.delete(state)) this.states.add(state);
        chip.setAttribute("aria-pressed", String(this.states.has(state)));
        this.restart();
      });
      return chip;
    });
    const options = [h("option", { value: "" }, "any priority")];
    for (const name of PRIORITIES) options.push(h("option", { value: name }, name));
    const priority = h("select", { "aria-label": "Priority" }, ...options);
    priority.value = this.priority;
    priority.addEventListener("change", () => {
      this.priority = priority.value as Priority | "";
      this.restart();
    });
    fill(this.filters, ...chips, priority);
  }

  private restart(): void {
    this.all = false;
    for (const { row } of this.shown.values()) row.remove();
    this.shown.clear();
    this.cursor = null;
    void this.refresh();
  }

  private followSome(): void {
    for (const { job } of this.shown.values()) {
      if (this.followed.size >= STREAMS) return;
      if (job.state !== "running" || this.followed.has(job.id)) continue;
      this.followed.add(job.id);
      const stop = new AbortController();
      this.signal.addEventListener("abort", () => stop.abort());
      void follow(job.id, (event) => this.hear(job.id, event.type, event.data), stop.signal).finally(
        () => this.followed.delete(job.id),
      );
    }
  }

  private hear(id: string, type: string, data: Record<string, unknown>): void {
    const known = this.shown.get(id);
    if (known === undefined) return;
    if (type === "progress") {
      const progress = data as unknown as Job["progress"];
      this.update({ ...known.job, progress });
    } else if (type === "end" || type === "state") {
      void this.refresh();
    }
  }
}

/** Whether the slices can be believed, in a few words. */
function verdict(job: Job): HTMLElement {
  const badge = verdictBadge(job.summary?.verdict);
  if (badge !== null) return h("p", { class: "detail" }, badge);
  const count = warned(job);
  const total = job.summary?.slices.length ?? 0;
  if (count === 0) return h("p", { class: "detail fine" }, "no warnings");
  const words = total === 1 ? "⚠ with warnings" : `⚠ warnings in ${count} of ${total} slices`;
  return h("p", { class: "detail caution" }, words);
}

function warned(job: Job): number {
  return job.summary?.slices.filter(({ warnings }) => warnings.length > 0).length ?? 0;
}

function seconds(job: Job): number {
  if (job.started_at === null || job.finished_at === null) return 0;
  return (Date.parse(job.finished_at) - Date.parse(job.started_at)) / 1000;
}

function searched(job: Job): string {
  const { id, state, preset, tags } = job;
  const model = job.summary?.model ?? job.model ?? "";
  const words = [jobName(job), fileName(id), id, state, preset, model, ...Object.values(tags)];
  return words.join(" ").toLowerCase();
}

function took(job: Job): string {
  if (job.started_at === null) return "";
  const until = job.finished_at === null ? Date.now() : Date.parse(job.finished_at);
  const words = duration((until - Date.parse(job.started_at)) / 1000);
  return job.finished_at === null ? `for ${words}` : `took ${words}`;
}

function srOnly(text: string): HTMLElement {
  return h("span", { class: "sr-only" }, text);
}
