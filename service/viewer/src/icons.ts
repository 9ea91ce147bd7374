/** Marks of the tools, drawn here because fonts differ in what they hold. */

import { svg } from "./elements";

const SHAPES: Record<string, string> = {
  window: "M8 2a6 6 0 1 0 0 12z M8 2a6 6 0 0 1 0 12",
  pan: "M8 1.5v13M1.5 8h13M5.8 3.7 8 1.5l2.2 2.2M5.8 12.3 8 14.5l2.2-2.2M3.7 5.8 1.5 8l2.2 2.2M12.3 5.8 14.5 8l-2.2 2.2",
  rectangle: "M2 4h12v8H2z",
  ellipse: "M1.5 8a6.5 4.5 0 1 0 13 0a6.5 4.5 0 1 0-13 0",
  polygon: "M8 1.8 14.4 6.6 12 14H4L1.6 6.6z",
  line: "M2.5 13.5l11-11M1.2 10.8l4 4M10.8 1.2l4 4",
  panes1: "M2 2.5h12v11H2z",
  panes2: "M2 2.5h12v11H2zM8 2.5v11",
  panes3: "M1.5 2.5h13v11h-13zM5.8 2.5v11M10.2 2.5v11",
  panes4: "M2 2.5h12v11H2zM8 2.5v11M2 8h12",
  planes: "M8 1.5 14 5v6l-6 3.5L2 11V5zM2 5l6 3.5L14 5M8 8.5v6",
  save: "M8 2v8.5M4.5 7 8 10.5 11.5 7M2.5 13.5h11",
  link: "M6.5 9.5l3-3M7 4.5l1.2-1.2a3.1 3.1 0 0 1 4.4 4.4L11.5 9M9 11.5l-1.2 1.2a3.1 3.1 0 0 1-4.4-4.4L4.5 7",
  smaller: "M3 8h10",
  larger: "M3 8h10M8 3v10",
  fit: "M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4",
  smooth: "M1.5 11c3 0 3.5-6 6.5-6s3.5 6 6.5 6",
  automatic: "M3 13 8 2.5 13 13M5 9.2h6",
  help: "M5.6 6a2.4 2.4 0 1 1 3.5 2.1c-.8.5-1.1.9-1.1 1.9M8 12.6v.6",
};

/** The mark of a tool; its button has the name. */
export function icon(name: string): SVGElement {
  return svg(
    "svg",
    { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" },
    svg("path", { d: SHAPES[name] ?? "", class: name }),
  );
}
