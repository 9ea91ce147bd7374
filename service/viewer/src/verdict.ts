/** How far a scan or a slice may be trusted: a badge, and what to do. */

import type { Report, SliceReport } from "./api";
import { h } from "./elements";

type Verdict = NonNullable<SliceReport["verdict"]>;

const MARKS = { trusted: "✓", doubtful: "⚠", refused: "✕" } as const;
const LOOKS = { trusted: "good", doubtful: "caution", refused: "bad" } as const;
const SHOWN = {
  posterior: "",
  classical: "Other programs get the classical image in its place.",
  nothing: "Other programs get an empty image in its place.",
} as const;

/** In one word, with its mark; the sentence shows on pointing at it. */
export function verdictBadge(verdict: Verdict | null | undefined): HTMLElement | null {
  if (!verdict) return null;
  const { trust, sentence } = verdict;
  return h("span", { class: `badge ${LOOKS[trust]}`, title: sentence }, `${MARKS[trust]} ${trust}`);
}

/** The sentence, and what other programs get. */
export function verdictWords(report: SliceReport): HTMLElement | null {
  if (!report.verdict) return null;
  const { trust, sentence } = report.verdict;
  const shown = SHOWN[report.shown ?? "posterior"];
  const role = trust === "refused" ? { role: "alert" } : {};
  return h("p", { class: LOOKS[trust], ...role }, verdictBadge(report.verdict), ` ${sentence} ${shown}`.trimEnd());
}

/** What order a list puts the scan in: the least trusted first. */
export function distrust(summary: Report | null): number {
  const trust = summary?.verdict?.trust;
  return trust === undefined ? 0 : { trusted: 0, doubtful: 1, refused: 2 }[trust];
}
