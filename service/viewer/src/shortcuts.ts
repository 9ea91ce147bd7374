/** The keys of the page with the pictures, as its help lists them. */

import { h } from "./elements";

export const SHORTCUTS: [keys: string, does: string][] = [
  ["↑ ↓", "previous, next slice"],
  ["← →", "previous, next sample"],
  ["Space", "play the samples over and over, stop"],
  ["T", "play the slices over and over, stop"],
  ["1 … 9, 0", "picture: mean, samples, standard deviation, coarse…"],
  ["B, Shift+B", "one more picture side by side, one picture"],
  ["N", "three planes, where the scan says where its slices lie"],
  ["O, Shift+O", "next, previous overlay"],
  [", .", "overlay fainter, stronger"],
  ["W", "drag changes the window: sideways its width, up and down its level"],
  ["V", "drag moves the picture"],
  ["R, E, P", "draw a rectangle, an ellipse, a polygon"],
  ["L", "draw a line: ruler and profile"],
  ["Enter", "put the region in the middle; close a polygon"],
  ["X", "draw region A or region B"],
  ["Alt + arrows", "move the region; with Shift: change its size"],
  ["Delete", "remove the region, or the line"],
  ["Escape", "give up what is being drawn"],
  ["+ −", "larger, smaller"],
  ["F", "fit the slice into the stage"],
  ["A", "automatic window"],
  ["I", "smooth between pixels, or show pixels"],
  ["S", "save figure, numbers and files"],
  ["C", "copy the link to what is seen"],
  ["?", "this list"],
];

/** The list as a dialog; `open` shows it. */
export function shortcutsDialog(): { element: HTMLDialogElement; open: () => void } {
  const rows = SHORTCUTS.map(([keys, does]) => {
    const names = keys.split(/(?<=\S), /).flatMap((name, at) => [at ? ", " : "", h("kbd", {}, name)]);
    return h("tr", {}, h("th", { scope: "row" }, ...names), h("td", {}, does));
  });
  const close = h("button", { type: "button" }, "Close");
  const element = h(
    "dialog",
    { class: "card dialog shortcuts", "aria-labelledby": "shortcuts-head" },
    h("h2", { id: "shortcuts-head" }, "Keyboard"),
    h("table", {}, h("tbody", {}, ...rows)),
    h(
      "p",
      { class: "faint" },
      "Wheel: slices, with Ctrl the size (the size alone where there is one slice). ",
      "Two fingers: size and place. Shift and drag, or the middle button: place.",
    ),
    close,
  );
  close.addEventListener("click", () => element.close());
  return { element, open: () => element.showModal() };
}
