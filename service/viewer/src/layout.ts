/** Where everything stands on the page with the pictures. */

import type { Job, Report } from "./api";
import { h } from "./elements";
import { jobName, stateBadge } from "./notices";
import { verdictBadge } from "./verdict";

/** What stands there, each list from top to bottom. */
export interface Parts {
  said: HTMLElement;
  column: HTMLElement[];
  panels: HTMLElement[];
  dialogs: HTMLElement[];
}

export function layout(job: Job, summary: Report, parts: Parts): HTMLElement {
  const { preset, samples, model } = summary;
  const warned = summary.slices.filter(({ warnings }) => warnings.length > 0).length;
  const words = warned === summary.slices.length ? "⚠ with warnings" : `⚠ warnings in ${warned} of ${summary.slices.length} slices`;
  return h(
    "div",
    { class: "workspace" },
    h(
      "div",
      { class: "job-head" },
      h("h1", { title: jobName(job) }, jobName(job)),
      stateBadge(job.state),
      verdictBadge(summary.verdict),
      warned ? h("span", { class: "badge caution" }, words) : null,
      h("span", { class: "faint" }, `${model}, ${preset}, ${samples} samples`),
      parts.said,
      h("a", { class: "button", href: `/view/reconstructions/${job.id}/report` }, "Report and files"),
    ),
    h(
      "div",
      { class: "reading" },
      h("div", { class: "column" }, ...parts.column),
      h("div", { class: "panels" }, ...parts.panels),
    ),
    ...parts.dialogs,
  );
}
