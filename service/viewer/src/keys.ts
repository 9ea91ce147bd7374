/** Keys to deeds, for the page with the pictures; `shortcuts.ts` lists them for people. */

import type { Tool } from "./stage";
import type { View } from "./view";

/** What keys do to a page with pictures. */
export interface Deeds {
  turn(by: number): void;
  flip(by: number): void;
  play(what: "samples" | "slices"): void;
  nextLayout(): void;
  arrange(count: View["count"]): void;
  use(tool: Tool): void;
  save(): void;
  copyLink(): Promise<void>;
  nextOverlay(by: number): void;
  fadeBy(step: number): void;
  placeRegion(): void;
  otherSlot(): void;
  removeRegion(): void;
  nudge(rows: number, columns: number, size: boolean): void;
  giveUp(): void;
  zoom(factor: number): void;
  automatic(): void;
  toggleSmooth(): void;
  showNumber(at: number): void;
  help(): void;
}

const STEP = 0.1;
const LARGER = 1.25;

/** A listener for a page. Keys that belong to a field, button or dialog are left to it. */
export function keysOf(page: Deeds): (event: KeyboardEvent) => void {
  const arrows: Record<string, [rows: number, columns: number]> = {
    ArrowUp: [-1, 0],
    ArrowDown: [1, 0],
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
  };
  const deeds: Record<string, () => void> = {
    ArrowUp: () => page.turn(-1),
    ArrowDown: () => page.turn(1),
    PageUp: () => page.turn(-1),
    PageDown: () => page.turn(1),
    ArrowLeft: () => page.flip(-1),
    ArrowRight: () => page.flip(1),
    " ": () => page.play("samples"),
    t: () => page.play("slices"),
    b: () => page.nextLayout(),
    B: () => page.arrange(1),
    n: () => page.arrange(0),
    l: () => page.use("line"),
    s: () => page.save(),
    c: () => void page.copyLink(),
    o: () => page.nextOverlay(1),
    O: () => page.nextOverlay(-1),
    ",": () => page.fadeBy(-STEP),
    ".": () => page.fadeBy(STEP),
    w: () => page.use("window"),
    v: () => page.use("pan"),
    r: () => page.use("rectangle"),
    e: () => page.use("ellipse"),
    p: () => page.use("polygon"),
    Enter: () => page.placeRegion(),
    x: () => page.otherSlot(),
    Delete: () => page.removeRegion(),
    Backspace: () => page.removeRegion(),
    Escape: () => page.giveUp(),
    "+": () => page.zoom(LARGER),
    "=": () => page.zoom(LARGER),
    "-": () => page.zoom(1 / LARGER),
    f: () => page.zoom(0),
    a: () => page.automatic(),
    i: () => page.toggleSmooth(),
    "?": () => page.help(),
  };
  for (let digit = 0; digit <= 9; digit += 1) {
    deeds[String(digit)] = () => page.showNumber(digit === 0 ? 9 : digit - 1);
  }
  return (event) => {
    if (event.ctrlKey || event.metaKey || taken(event)) return;
    const arrow = arrows[event.key];
    if (event.altKey && arrow) page.nudge(...arrow, event.shiftKey);
    else if (event.altKey) return;
    else if (deeds[event.key]) deeds[event.key]?.();
    else return;
    event.preventDefault();
  };
}

/** Whether what has the focus needs the key itself. */
function taken(event: KeyboardEvent): boolean {
  const target = event.target as HTMLElement;
  if (document.querySelector("dialog[open]") !== null) return true;
  if (target.matches("textarea, select, input:not([type=radio], [type=range])")) return true;
  const own = target.matches("input[type=radio], input[type=range]");
  if (own) return event.key.startsWith("Arrow") || event.key === " " || event.key.startsWith("Page");
  return target.matches("a, button, summary") && (event.key === "Enter" || event.key === " ");
}
