/** The report of a reconstruction: what was asked, what was reached, and what to make of it. */

import { api, ended } from "../api";
import type { Job, Product, SliceReport, Report } from "../api";
import { NO_SELF_CHECK, chiSquareChart, chiSquareWords, coverageChart, mixingWords, selfCheckWords } from "../charts";
import { fill, h } from "../elements";
import type { Child } from "../elements";
import { duration, moment, number, percent } from "../format";
import { jobName, problemBox, stateBadge } from "../notices";
import { title } from "../page";
import type { Page } from "../page";
import { filesTable } from "../saving";
import { verdictBadge } from "../verdict";
import { modelCard, modelFacts } from "./models";

export const reportPage: Page = async (main, subject, signal) => {
  const job = await api.job(decodeURIComponent(subject));
  title(`Report: ${jobName(job)}`);
  const { summary } = job;
  if (summary === null) {
    fill(main, h("div", { class: "narrow" }, head(job), unfinished(job)));
    return;
  }
  const [model, results] = await Promise.all([
    api.model(summary.model).catch(() => null),
    api.products(job.id),
  ]);
  if (signal.aborted) return;
  fill(
    main,
    h(
      "div",
      { class: "page report" },
      head(job),
      h(
        "div",
        { class: "columns" },
        h("div", {}, verdict(summary), warnings(summary), worst(summary)),
        h("div", {}, facts(job, summary), downloads(job, results.items)),
      ),
      slices(summary),
      section("Model", model === null ? gone(summary.model) : [modelFacts(model), modelCard(model)]),
      h(
        "details",
        { class: "card" },
        h("summary", {}, "All settings, as the service keeps them"),
        h("pre", { tabindex: "0" }, JSON.stringify({ params: job.params, summary }, null, 2)),
      ),
    ),
  );
};

function head(job: Job): HTMLElement {
  return h(
    "div",
    { class: "job-head" },
    h("h1", {}, `Report: ${jobName(job)}`),
    stateBadge(job.state),
    h("a", { class: "button", href: `/view/reconstructions/${job.id}` }, "Pictures"),
  );
}

function unfinished(job: Job): HTMLElement {
  if (job.error) return problemBox(job.error);
  const text = ended(job.state) ? "It ended without a result." : "There is no report yet.";
  return h("p", {}, text);
}

function section(name: string, ...children: Child[]): HTMLElement {
  return h("section", {}, h("h2", {}, name), ...children);
}

/** How far the scan may be trusted, and why. */
function verdict(summary: Report): Child {
  if (!summary.verdict) return null;
  return section(
    "Verdict",
    h("div", { class: "card" }, verdictBadge(summary.verdict), h("p", {}, summary.verdict.sentence)),
  );
}

/** Warnings in words, each with the slices it is about. */
function warnings(summary: Report): HTMLElement {
  const total = summary.slices.length;
  const listed = (texts: (report: SliceReport) => string[]) => {
    const found = new Map<string, number[]>();
    for (const report of summary.slices) {
      for (const text of texts(report)) found.set(text, [...(found.get(text) ?? []), report.slice]);
    }
    return [...found].map(([text, where]) =>
      h("li", {}, text, total > 1 ? h("span", { class: "faint" }, ` (${sliceWords(where, total)})`) : null),
    );
  };
  const items = listed((report) => report.warnings);
  const notes = listed((report) => report.notes ?? []);
  return section(
    "Warnings",
    h(
      "div",
      { class: "card" },
      items.length
        ? h("ul", { class: "warnings" }, ...items)
        : h("p", { class: "good" }, "✓ No warnings."),
      notes.length ? h("ul", { class: "notes" }, ...notes) : null,
      h(
        "p",
        { class: "faint" },
        "The intervals tell what the data and this prior leave open. They know nothing of what neither holds: motion, pathology that the prior never saw, errors of the coil maps.",
      ),
    ),
  );
}

function sliceWords(where: number[], total: number): string {
  if (where.length === total) return "all slices";
  const shown = where.slice(0, 8).join(", ");
  const rest = where.length > 8 ? ` and ${where.length - 8} more` : "";
  return `slice${where.length === 1 ? "" : "s"} ${shown}${rest}`;
}

function facts(job: Job, summary: Report): HTMLElement {
  const { shape = null, pixel_mm: pixel = null, slice_mm: thick = null } = summary.image ?? {};
  const size = pixel
    ? `${number(pixel[0])} × ${number(pixel[1])}${thick ? ` × ${number(thick)}` : ""} mm`
    : "not in the scan";
  const { reached } = summary;
  const rows: [string, Child][] = [
    ["Preset", summary.preset],
    ["Samples", summary.samples],
    ["Sampled", summary.volume ? "as one volume" : "slice by slice"],
    ["Network evaluations per sample", summary.evaluations_per_chain],
    ["Seed", summary.seed],
    ["Model", h("a", { href: `/view/models/${summary.model}` }, summary.model)],
    ["Coarse reconstruction", job.params.coarse],
    ["Slices", summary.slices.length],
    ["Matrix", shape ? `${shape[0]} × ${shape[1]}` : "–"],
    ["Voxel", size],
    ["Monte Carlo error of the mean", reached.mc_error === null ? "–" : `${number(reached.mc_error)} posterior standard deviations (median)`],
    ["Submitted", moment(job.created_at)],
    ["Took, with waiting", duration(reached.seconds_since_submission)],
    ["Scan, SHA-256", h("code", { class: "digest" }, summary.scan_sha256)],
  ];
  const { calibration } = summary;
  if (calibration) {
    const told = `${number(calibration.factor)} times what the draws say: conformal factor from ${calibration.units} ${calibration.unit}s of ${calibration.data}, ${calibration.date}; the plain figures are in result.h5, under uncalibrated`;
    rows.push(["Intervals and standard deviation", told]);
  }
  if (reached.deadline_s !== null) {
    const met = reached.deadline_met ? "met" : "missed";
    rows.push(["Deadline", `${duration(reached.deadline_s)}, ${met}`]);
  }
  const cells = rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
  return section("Settings", h("dl", { class: "facts card" }, ...cells));
}

/** One line per slice. */
function slices(summary: Report): HTMLElement {
  const heads = ["Slice", "Verdict", "Converged", "R̂ < 1.1", "χ²", "50 % held", "90 % held", "Error / predicted", "Warnings"];
  const rows = summary.slices.map((report) => {
    const check = report.self_check;
    const cells = [
      report.slice,
      verdictBadge(report.verdict) ?? "–",
      converged(report),
      percent(report["rhat_below_1.1"]),
      number(report.chi2),
      percent(check?.coverage_50),
      percent(check?.coverage_90),
      number(check?.residual_std),
      report.warnings.length || "–",
    ];
    return h("tr", {}, ...cells.map((cell) => h("td", {}, cell)));
  });
  return section(
    "Slices",
    h(
      "div",
      { class: "card scroll", tabindex: "0", role: "region", "aria-label": "Table of the slices" },
      h(
        "table",
        { class: "numbers" },
        h("thead", {}, h("tr", {}, ...heads.map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, ...rows),
      ),
    ),
  );
}

/** What a short preset cannot tell is not held against the slice. */
function converged(report: SliceReport): Child {
  if (report.converged) return "✓ yes";
  return report["rhat_below_1.1"] === null ? "not checked" : h("span", { class: "caution" }, "✕ no");
}

/** The slice with most to say against it, in words. */
function worst(summary: Report): HTMLElement {
  const against = (at: number) => {
    const report = summary.slices[at];
    if (report === undefined) return 0;
    const narrow = Math.max(0, 0.9 - (report.self_check?.coverage_90 ?? 0.9));
    return Math.abs(report.chi2 - 1) + narrow + (report.converged || report["rhat_below_1.1"] === null ? 0 : 1);
  };
  const order = summary.slices.map((_, at) => at).sort((a, b) => against(b) - against(a));
  const report = summary.slices[order[0] ?? 0];
  if (report === undefined) return h("section");
  const check = report.self_check;
  const name = summary.slices.length > 1 ? `Slice ${report.slice}, the worst one` : "Checks";
  return section(
    name,
    h(
      "div",
      { class: "card" },
      h("h3", {}, `Fit to the data, χ² = ${number(report.chi2)}`),
      h("p", {}, chiSquareWords(report.chi2)),
      chiSquareChart(report),
      h("h3", {}, "Chains"),
      h("p", {}, mixingWords(report)),
      h("h3", {}, "Self-check"),
      check === null
        ? h("p", { class: "faint" }, NO_SELF_CHECK)
        : [coverageChart(check), h("p", {}, selfCheckWords(check))],
    ),
  );
}

function downloads(job: Job, results: Product[]): HTMLElement {
  const said = h("div", { "aria-live": "polite" });
  return section("Files", h("div", { class: "card" }, filesTable(job, results, said), said));
}

function gone(name: string): HTMLElement {
  return h("p", { class: "card" }, `The workers no longer offer the model “${name}”.`);
}
