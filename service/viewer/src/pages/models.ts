/** The priors that the workers offer, and the card of each. */

import MarkdownIt from "markdown-it";

import { api } from "../api";
import type { Model, ModelWithCard } from "../api";
import { fill, h } from "../elements";
import { title } from "../page";
import type { Page } from "../page";

// Without `html` everything in a card is text or what Markdown makes of it.
const markdown = new MarkdownIt({ html: false, linkify: false });
markdown.renderer.rules.image = (tokens, at) => markdown.utils.escapeHtml(tokens[at]?.content ?? "");

export const modelsPage: Page = async (main, subject, signal) => {
  title("Models");
  const { items, default: standard } = await api.models();
  const name = subject ? decodeURIComponent(subject) : standard;
  const shown = await api.model(items.some((model) => model.id === name) ? name : subject || name);
  if (signal.aborted) return;
  const list = items.map((model) => {
    const link = h("a", { href: `/view/models/${model.id}` }, h("strong", {}, model.id));
    if (model.id === shown.id) link.setAttribute("aria-current", "true");
    return h("li", {}, link, model.id === standard ? h("span", { class: "tag" }, "default") : null);
  });
  fill(
    main,
    h(
      "div",
      { class: "page split" },
      h("aside", {}, h("h1", {}, "Models"), h("ul", { class: "choices" }, ...list)),
      h("section", { "aria-label": `Model ${shown.id}` }, modelFacts(shown), modelCard(shown)),
    ),
  );
};

/** Where a model comes from, in a table. */
export function modelFacts(model: Model): HTMLElement {
  const attributions = model.data_attributions.map((text) => h("li", {}, text));
  return h(
    "dl",
    { class: "facts card" },
    h("dt", {}, "Model"),
    h("dd", {}, model.id),
    h("dt", {}, "Trained on"),
    h("dd", {}, model.training),
    h("dt", {}, "Data"),
    h("dd", {}, attributions.length ? h("ul", {}, ...attributions) : "–"),
    h("dt", {}, "Licence"),
    h("dd", {}, model.licence),
    h("dt", {}, "SHA-256"),
    h("dd", {}, h("code", { class: "digest" }, model.sha256)),
  );
}

/** What its makers say of it. */
export function modelCard(model: ModelWithCard): HTMLElement {
  const card = h("article", { class: "card prose" });
  if (!model.card) {
    fill(card, h("p", { class: "faint" }, "This model has no card."));
    return card;
  }
  // markdown-it escapes everything that is not Markdown, and there is no script in what it makes.
  const tokens = markdown.parse(model.card, {});
  for (const token of tokens) {
    // The page has a first heading already.
    if (/^h[1-6]$/.test(token.tag)) token.tag = `h${Math.min(6, Number(token.tag[1]) + 1)}`;
  }
  card.innerHTML = markdown.renderer.render(tokens, markdown.options, {});
  for (const table of card.querySelectorAll("table")) {
    const frame = h("div", { class: "scroll", tabindex: "0", role: "region" });
    frame.setAttribute("aria-label", "Table of the model card");
    table.replaceWith(frame);
    frame.append(table);
  }
  return card;
}
