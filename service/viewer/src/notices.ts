/** Errors, states and progress as the pages show them. */

import { api, ServiceError } from "./api";
import type { Job, JobState, Problem } from "./api";
import { fill, h } from "./elements";
import type { Child } from "./elements";
import { fileName } from "./file-names";
import { duration, percent } from "./format";

let known: Promise<Map<string, string>> | null = null;

/** What to do about each type of problem, as the service knows it; asked for once. */
async function adviceFor(type: string): Promise<string> {
  known ??= api.problems().then(
    ({ items }) => new Map(items.map((item) => [item.type, item.advice])),
    () => {
      known = null;
      return new Map<string, string>();
    },
  );
  return (await known).get(type) ?? "";
}

/** Text in which `names` are set as code. */
function withCode(text: string): Child[] {
  return text.split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part));
}

/** A problem in words, what to do about it, and a way to try again. */
export function problemBox(error: unknown, again?: () => void): HTMLElement {
  const problem = problemOf(error);
  const advice = h("p", { hidden: true });
  if (problem.type.startsWith("/problems/")) {
    void adviceFor(problem.type).then((text) => {
      fill(advice, ...withCode(text));
      advice.hidden = text === "";
    });
  }
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("strong", {}, problem.title),
    h("p", {}, sentence(problem.detail)),
    advice,
    problem.request_id
      ? h("p", { class: "faint" }, `Request ${problem.request_id}, for the service's log`)
      : null,
    again ? h("button", { type: "button", onclick: again }, "Try again") : null,
  );
}

function problemOf(error: unknown): Problem {
  if (error instanceof ServiceError) return error.problem;
  if (error && typeof error === "object" && "title" in error) return error as Problem;
  const detail = error instanceof Error ? error.message : String(error);
  return { type: "viewer", title: "The viewer failed", status: 0, detail };
}

function sentence(text: string): string {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(capital) ? capital : `${capital}.`;
}

const MARKS: Record<JobState, string> = {
  queued: "◷",
  running: "▶",
  cancelling: "◼",
  succeeded: "✓",
  failed: "✕",
  cancelled: "⊘",
};

/** The state as a word with a mark; the colour only repeats it. */
export function stateBadge(state: JobState): HTMLElement {
  const mark = h("span", { "aria-hidden": "true" }, MARKS[state]);
  return h("span", { class: `badge ${state}` }, mark, " ", state);
}

/** How far a job is, as a bar and in words. */
export function progressBar(job: Job): HTMLElement {
  const fraction = job.progress?.fraction ?? 0;
  const words = progressWords(job);
  return h(
    "div",
    { class: "progress" },
    h("progress", { max: "1", value: fraction, "aria-label": `Progress: ${words}` }),
    h("span", { class: "faint" }, words),
  );
}

/** `41 %, slice 3 of 12, 1 min 20 s left`. */
export function progressWords(job: Job): string {
  if (job.state === "queued") {
    const ahead = job.queue_position;
    return ahead === null ? "waiting" : ahead === 0 ? "next in line" : `${ahead} ahead of it`;
  }
  const { progress } = job;
  if (progress === null) return "starting";
  const parts = [percent(progress.fraction)];
  if (progress.slices !== null && progress.slices > 1 && progress.position !== null) {
    parts.push(`slice ${progress.position + 1} of ${progress.slices}`);
  }
  if (progress.phase !== "sampling") parts.push(progress.phase);
  if (progress.eta_s !== null) parts.push(`${duration(progress.eta_s)} left`);
  return parts.join(", ");
}

/** What to call a job: its label, else the file it was made of, else the end of its id. */
export function jobName(job: Job): string {
  const name = job.tags.label || job.client_id || fileName(job.id);
  return name || `Reconstruction ${job.id.slice(-6)}`;
}
