/** One reconstruction: how far it is while it runs, its pictures once it has ended. */

import { api, ended, ServiceError } from "../api";
import type { Job } from "../api";
import { fill, h } from "../elements";
import { follow } from "../events";
import { exactMoment, moment } from "../format";
import { jobName, problemBox, progressBar, stateBadge } from "../notices";
import { title } from "../page";
import type { Page } from "../page";
import { Workspace } from "../workspace";

export const reconstructionPage: Page = async (main, subject, signal, again) => {
  const job = await api.job(decodeURIComponent(subject));
  if (signal.aborted) return;
  title(jobName(job));
  if (job.state === "succeeded" && job.summary !== null) {
    const { items } = await api.pictures(job.id);
    if (signal.aborted) return;
    document.body.classList.add("fills");
    const workspace = new Workspace(job, job.summary, items, signal);
    fill(main, workspace.element);
    await workspace.start();
  } else if (ended(job.state)) {
    fill(main, endedWithout(job));
  } else {
    watch(main, job, signal, again);
  }
};

function endedWithout(job: Job): HTMLElement {
  const said = h("div", { "aria-live": "polite" });
  const retry = async () => {
    try {
      const next = await api.retry(job.id);
      history.pushState(null, "", `/view/reconstructions/${next.id}`);
      dispatchEvent(new PopStateEvent("popstate"));
    } catch (error) {
      fill(said, problemBox(error));
    }
  };
  const remove = async () => {
    if (!confirm(`Delete “${jobName(job)}”? This cannot be undone.`)) return;
    try {
      await api.remove(job.id);
      history.pushState(null, "", "/view");
      dispatchEvent(new PopStateEvent("popstate"));
    } catch (error) {
      fill(said, problemBox(error));
    }
  };
  return h(
    "div",
    { class: "narrow" },
    heading(job),
    job.error
      ? problemBox(job.error)
      : h("p", {}, "It was cancelled before it had a result."),
    h(
      "div",
      { class: "row start" },
      h("button", { type: "button", class: "primary", onclick: retry }, "Submit again"),
      h("button", { type: "button", onclick: remove }, "Delete"),
    ),
    said,
    logOf(job),
  );
}

/** What was done for the job, step by step. */
function logOf(job: Job): HTMLElement {
  const body = h("tbody");
  const box = h(
    "section",
    { class: "card log" },
    h("h2", {}, "Log"),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Log of the job" }, h("table", { class: "numbers" }, body)),
  );
  api.log(job.id).then(
    (lines) => {
      const rows = lines.map((line) => {
        const what = [line.step, line.event].filter(Boolean).join(": ");
        const cells = [exactMoment(line.ts), what, line.worker ?? "", line.error ?? ""];
        return h("tr", { class: line.level }, ...cells.map((cell) => h("td", {}, cell)));
      });
      fill(body, ...rows);
    },
    (error: unknown) => box.append(problemBox(error)),
  );
  return box;
}

function heading(job: Job): HTMLElement {
  return h(
    "div",
    { class: "job-head" },
    h("h1", {}, jobName(job)),
    stateBadge(job.state),
    h("span", { class: "faint" }, `${job.id}, submitted ${moment(job.created_at)}`),
  );
}

/** A job that is not finished: progress, and the picture so far. */
function watch(main: HTMLElement, first: Job, signal: AbortSignal, again: () => void): void {
  let job = first;
  const head = h("div");
  const bar = h("div", { "aria-live": "polite" });
  const picture = h("img", { class: "preview", alt: "", hidden: true });
  const caption = h("figcaption", {}, "The first picture appears after calibration.");
  const said = h("div", { "aria-live": "polite" });
  const cancel = h("button", { type: "button" }, "Cancel");
  cancel.addEventListener("click", () => {
    cancel.disabled = true;
    api.cancel(job.id).then(show, (error: unknown) => fill(said, problemBox(error)));
  });
  let address = "";

  const show = (now: Job) => {
    job = now;
    fill(head, heading(job));
    fill(bar, progressBar(job));
    cancel.disabled = job.state === "cancelling";
  };
  const look = async (slice: number | null, kind: string) => {
    try {
      const query: Record<string, string> = slice === null ? {} : { slice: String(slice) };
      const blob = await (await api.preview(job.id, query)).blob();
      if (signal.aborted) return;
      const before = address;
      address = URL.createObjectURL(blob);
      picture.src = address;
      picture.hidden = false;
      const what = kind === "coarse" ? "first reconstruction" : "mean of the samples so far";
      picture.alt = `Slice ${slice ?? ""}: ${what}`;
      fill(caption, `Slice ${slice ?? "–"}: ${what}. Not finished.`);
      if (before) URL.revokeObjectURL(before);
    } catch (error) {
      // Between two slices there may be no picture.
      if (!(error instanceof ServiceError)) throw error;
    }
  };
  const refresh = () => {
    api.job(job.id).then(
      (now) => {
        if (signal.aborted) return;
        if (ended(now.state)) again();
        else show(now);
      },
      (error: unknown) => fill(said, problemBox(error)),
    );
  };
  show(job);
  fill(
    main,
    h(
      "div",
      { class: "watching" },
      head,
      bar,
      h("figure", {}, picture, caption),
      h("div", { class: "row start" }, cancel, h("a", { href: "/view" }, "All reconstructions")),
      said,
    ),
  );
  if (job.progress?.slice !== null && job.progress) void look(job.progress.slice, "mean");
  void follow(
    job.id,
    (event) => {
      if (event.type === "progress") show({ ...job, progress: event.data as unknown as Job["progress"] });
      else if (event.type === "preview") void look(Number(event.data.slice), String(event.data.kind));
      else if (event.type === "state" || event.type === "end") refresh();
    },
    signal,
  ).then(() => {
    if (!signal.aborted) refresh();
  });
  signal.addEventListener("abort", () => URL.revokeObjectURL(address));
}
