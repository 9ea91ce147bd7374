/** What the report says of the slice that is seen. */

import type { Job, SliceReport } from "./api";
import { NO_SELF_CHECK, chiSquareChart, chiSquareWords, coverageChart, mixingWords, selfCheckWords } from "./charts";
import { fill, h } from "./elements";
import { number } from "./format";
import { verdictWords } from "./verdict";

export class QualityPanel {
  readonly element = h("section", { class: "panel", "aria-labelledby": "quality-head" });
  private readonly body = h("div");

  constructor(private readonly job: Job) {
    this.element.append(h("h2", { id: "quality-head" }, "Can this slice be believed?"), this.body);
  }

  show(report: SliceReport): void {
    const warnings = report.warnings.map((text) => h("li", {}, text));
    const notes = (report.notes ?? []).map((text) => h("li", {}, text));
    const check = report.self_check;
    fill(
      this.body,
      verdictWords(report),
      warnings.length
        ? h("ul", { class: "warnings" }, ...warnings)
        : h("p", { class: "good" }, "✓ No warnings"),
      notes.length ? h("ul", { class: "notes" }, ...notes) : null,
      h("h3", {}, `Fit to the data, χ² = ${number(report.chi2)}`),
      h("p", {}, chiSquareWords(report.chi2)),
      chiSquareChart(report),
      h("h3", {}, "Chains"),
      h("p", {}, mixingWords(report)),
      h("h3", {}, "Self-check"),
      check === null
        ? h("p", { class: "faint" }, NO_SELF_CHECK)
        : [coverageChart(check), h("p", {}, selfCheckWords(check))],
      h("p", {}, h("a", { href: `/view/reconstructions/${this.job.id}/report` }, "The whole report")),
    );
  }
}
