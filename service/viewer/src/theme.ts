/** Dark, light, or as the system has it; kept in this browser. */

import { fill, h } from "./elements";

const NAME = "mri-posterior-theme";
const THEMES = ["", "light", "dark"];
const MARKS: Record<string, [mark: string, words: string]> = {
  "": ["◐", "as the system"],
  light: ["☀", "light"],
  dark: ["☾", "dark"],
};

/** Use what was chosen; a button that changes it. */
export function themeButton(): HTMLButtonElement {
  const button = h("button", { type: "button", class: "theme small" });
  let theme = localStorage.getItem(NAME) ?? "";
  const use = () => {
    if (theme === "") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const [mark, words] = MARKS[theme] ?? ["◐", "as the system"];
    fill(button, h("span", { "aria-hidden": "true" }, mark));
    button.title = `Colours: ${words}`;
    button.setAttribute("aria-label", `Colours: ${words}. Press for the next.`);
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "";
    localStorage.setItem(NAME, theme);
    use();
  });
  use();
  return button;
}
