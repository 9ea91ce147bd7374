/** The frame round every page: notice, navigation, and which page an address means. */

import "./style.css";

import { key, ServiceError } from "./api";
import { h, fill } from "./elements";
import { problemBox } from "./notices";
import { jobsPage } from "./pages/jobs";
import { keyPage } from "./pages/key";
import { modelsPage } from "./pages/models";
import { reconstructionPage } from "./pages/reconstruction";
import { reportPage } from "./pages/report";
import type { Page } from "./page";
import { themeButton } from "./theme";

const ROUTES: [RegExp, Page][] = [
  [/^\/view\/?$/, jobsPage],
  [/^\/view\/reconstructions\/([^/]+)$/, reconstructionPage],
  [/^\/view\/reconstructions\/([^/]+)\/report$/, reportPage],
  [/^\/view\/models(?:\/([^/]+))?$/, modelsPage],
  [/^\/view\/key$/, keyPage],
];

const main = h("main", { id: "main", tabindex: "-1" });
const keyLink = h("a", { href: "/view/key", class: "key-link" });
const links: [HTMLAnchorElement, RegExp][] = [
  [h("a", { href: "/view" }, "Reconstructions"), /^\/view(\/?$|\/reconstructions)/],
  [h("a", { href: "/view/models" }, "Models"), /^\/view\/models/],
];

let current = new AbortController();

async function open(moveFocus: boolean): Promise<void> {
  current.abort();
  current = new AbortController();
  const { signal } = current;
  const path = location.pathname;
  for (const [link, pattern] of links) {
    if (pattern.test(path)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  showKey();
  document.body.classList.toggle("fills", false);
  const found = ROUTES.find(([pattern]) => pattern.test(path));
  fill(main, h("p", { class: "loading", role: "status" }, "Loading…"));
  if (moveFocus) main.focus({ preventScroll: true });
  try {
    if (found === undefined) throw new ServiceError(missing());
    const [pattern, page] = found;
    await page(main, (pattern.exec(path)?.[1] ?? "").toString(), signal, () => void open(false));
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof ServiceError && error.status === 401) {
      await keyPage(main, "needed", signal, () => void open(false));
      return;
    }
    fill(main, h("div", { class: "narrow" }, problemBox(error, () => void open(false))));
  }
}

function missing() {
  return {
    type: "not-found",
    title: "There is no such page",
    status: 404,
    detail: "Check the address, or go back to the reconstructions.",
  };
}

function showKey(): void {
  keyLink.textContent = key.get() === null ? "API key" : "API key: set";
}

/** Links within the viewer change the page without loading it again. */
document.addEventListener("click", (event) => {
  const link = (event.target as Element).closest("a");
  const plain = event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey);
  if (link === null || !plain || link.origin !== location.origin || link.download) return;
  if (!ROUTES.some(([pattern]) => pattern.test(link.pathname))) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  void open(true);
});
addEventListener("popstate", () => void open(true));

document.body.prepend(
  h("a", { href: "#main", class: "skip", onclick: () => main.focus() }, "Skip to the content"),
  h(
    "header",
    {},
    h("a", { href: "/view", class: "brand" }, h("span", { class: "mark" }), "mri-posterior"),
    h("nav", { "aria-label": "Pages" }, ...links.map(([link]) => link), apiLink()),
    h("p", { class: "research" }, "For research use, not for diagnosis"),
    keyLink,
    themeButton(),
  ),
  main,
);
void open(false);

function apiLink(): HTMLAnchorElement {
  return h("a", { href: "/docs" }, "API");
}
