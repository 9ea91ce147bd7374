/** The page on which a person enters the API key. */

import { api, key, ServiceError } from "../api";
import { fill, h } from "../elements";
import { problemBox } from "../notices";
import { title } from "../page";
import type { Page } from "../page";

export const keyPage: Page = async (main, subject, _signal, again) => {
  title("API key");
  const refused = subject === "needed" && key.get() !== null;
  if (refused) key.forget();
  const said = h("div", { "aria-live": "polite" });
  const input = h("input", {
    id: "key",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "mrip_…",
    required: true,
  });
  const form = h(
    "form",
    {
      class: "card form",
      onsubmit: (event: Event) => {
        event.preventDefault();
        void enter(input.value.trim(), said, subject === "needed" ? again : null);
      },
    },
    h("label", { for: "key" }, "API key"),
    input,
    h("div", { class: "row" }, h("button", { class: "primary" }, "Use this key"), forgetButton()),
    said,
  );
  fill(
    main,
    h(
      "div",
      { class: "narrow" },
      h("h1", {}, subject === "needed" ? "This service needs an API key" : "API key"),
      refused
        ? h("p", { class: "warning", role: "alert" }, "The key was not accepted. Enter another.")
        : null,
      h(
        "p",
        {},
        "Whoever runs the service makes one with ",
        h("code", {}, "mri-posterior keys create NAME"),
        ". It stays in this tab and is gone when the tab is closed.",
      ),
      form,
    ),
  );
  input.focus();

  function forgetButton(): HTMLElement | null {
    if (key.get() === null) return null;
    const forget = () => {
      key.forget();
      again();
    };
    return h("button", { type: "button", onclick: forget }, "Forget the key");
  }
};

async function enter(value: string, said: HTMLElement, then: (() => void) | null): Promise<void> {
  const before = key.get();
  key.set(value);
  try {
    await api.counts();
    if (then !== null) then();
    else fill(said, h("p", { class: "good" }, "The key is accepted and used from now on."));
  } catch (error) {
    if (before === null) key.forget();
    else key.set(before);
    if (error instanceof ServiceError) fill(said, problemBox(error));
    else throw error;
  }
}
