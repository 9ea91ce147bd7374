/** What is seen as a figure that can go into a paper: SVG, and PNG made from it. */

import { legendTicks, unitOf } from "./colour-bar";
import type { Legend } from "./colour-bar";
import { svg } from "./elements";
import type { Layer } from "./layers";
import { marksShapes } from "./marks";
import { paint, colourAt } from "./paint";
import { scaleBar } from "./scale-bar";
import type { Marks } from "./view";
import { Viewport } from "./viewport";

/** One picture of the figure. */
export interface Panel {
  title: string;
  layers: Layer[];
  viewport: Viewport;
}

const WIDE = 440;
const FINE = 3;
const [HEAD, BARS, GAP, FOOT] = [26, 46, 18, 26];
const STYLE = `
text { font: 12px "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; fill: #111; }
text.title { font-weight: 600; font-size: 14px; }
text.name { font-weight: 600; fill: #fff; stroke: #000; stroke-width: 3; paint-order: stroke; }
text.name.A { fill: #4fd1ff; } text.name.B { fill: #ffb454; } text.name.ruler { fill: #ffe45c; }
.halo { fill: none; stroke: #000; stroke-width: 4; stroke-opacity: 0.55; }
.outline { fill: none; stroke-width: 1.6; } .outline.A { stroke: #4fd1ff; } .outline.B { stroke: #ffb454; }
.ruler { stroke: #ffe45c; stroke-width: 1.6; } .scale { fill: none; stroke: #fff; stroke-width: 2; }
.faint { fill: #555; font-size: 11px; }`;

/** The figure as an element; `caption` stands below the pictures. */
export function figure(
  panels: Panel[],
  marks: Marks,
  smooth: boolean,
  inMillimetres: boolean,
  caption: string,
): SVGSVGElement {
  const across = panels.length === 4 ? 2 : panels.length;
  const shapes = panels.map(({ viewport }) => viewport.height / viewport.width);
  const tall = Math.round(WIDE * Math.max(...shapes));
  const step = HEAD + tall + BARS;
  const width = across * WIDE + (across + 1) * GAP;
  const height = Math.ceil(panels.length / across) * step + GAP + FOOT;
  const drawn = panels.map((panel, at) => {
    const left = GAP + (at % across) * (WIDE + GAP);
    const top = GAP / 2 + Math.floor(at / across) * step;
    const place = `translate(${left} ${top})`;
    return svg("g", { transform: place }, ...picture(panel, tall, marks, smooth, inMillimetres));
  });
  return svg(
    "svg",
    { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}` },
    svg("style", {}, STYLE),
    svg("rect", { width, height, fill: "#fff" }),
    ...drawn,
    svg("text", { class: "faint", x: GAP, y: height - 12 }, caption),
  );
}

function picture(
  { title, layers, viewport }: Panel,
  tall: number,
  marks: Marks,
  smooth: boolean,
  inMillimetres: boolean,
): SVGElement[] {
  const view = new Viewport(viewport.grid);
  view.resize(WIDE, tall);
  view.zoom = viewport.zoom;
  view.centre = { ...viewport.centre };
  const canvas = document.createElement("canvas");
  canvas.width = FINE * WIDE;
  canvas.height = FINE * tall;
  const context = canvas.getContext("2d");
  if (context === null) throw new Error("this browser has no canvas");
  const image = context.createImageData(canvas.width, canvas.height);
  for (const { plane, look } of layers) paint(image, FINE, view, plane, look, smooth);
  context.putImageData(image, 0, 0);
  const clip = `clip-${Math.random().toString(36).slice(2)}`;
  return [
    svg("text", { class: "title", x: 0, y: HEAD - 9 }, title),
    svg("clipPath", { id: clip }, svg("rect", { y: HEAD, width: WIDE, height: tall })),
    svg("rect", { y: HEAD, width: WIDE, height: tall, fill: "#000" }),
    svg("image", { y: HEAD, width: WIDE, height: tall, href: canvas.toDataURL("image/png") }),
    svg(
      "g",
      { "clip-path": `url(#${clip})` },
      svg(
        "g",
        { transform: `translate(0 ${HEAD})` },
        ...marksShapes(marks, view, null, inMillimetres),
        ...scaleBar(view, inMillimetres),
      ),
    ),
    ...layers.map((layer, at) => bar(layer.legend, at, layers.length, HEAD + tall + 7)),
  ];
}

function bar(legend: Legend, at: number, count: number, top: number): SVGElement {
  const wide = (WIDE - (count - 1) * GAP) / count;
  const { power, at: marks } = legendTicks(legend, wide);
  const unit = `${power ? `${power} ` : ""}${unitOf(legend.unit)}`;
  const id = `bar-${Math.random().toString(36).slice(2)}`;
  const stops = Array.from({ length: 33 }, (_, stop) =>
    svg("stop", {
      offset: stop / 32,
      "stop-color": `rgb(${colourAt(legend.colours, stop / 32).map(Math.round).join(" ")})`,
    }),
  );
  return svg(
    "g",
    { transform: `translate(${at * (wide + GAP)} ${top})` },
    svg("linearGradient", { id }, ...stops),
    svg("rect", { width: wide, height: 9, fill: `url(#${id})`, stroke: "#888", "stroke-width": 0.5 }),
    ...marks.map(([place, text]) =>
      svg("text", { class: "faint", x: place * wide, y: 21, "text-anchor": anchor(place) }, text),
    ),
    svg("text", { class: "faint", x: wide / 2, y: 34, "text-anchor": "middle" }, `${legend.label} (${unit})`),
  );
}

function anchor(place: number): string {
  return place < 0.05 ? "start" : place > 0.95 ? "end" : "middle";
}

/** The figure as a file. */
export function asSvg(drawing: SVGSVGElement): Blob {
  const text = new XMLSerializer().serializeToString(drawing);
  return new Blob([`<?xml version="1.0" encoding="UTF-8"?>\n${text}`], { type: "image/svg+xml" });
}

/** The figure as a picture of pixels, twice as fine as it is large. */
export async function asPng(drawing: SVGSVGElement): Promise<Blob> {
  const address = URL.createObjectURL(asSvg(drawing));
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = 2 * image.naturalWidth;
    canvas.height = 2 * image.naturalHeight;
    canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve, reject) => {
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the PNG failed"))), "image/png");
    });
  } finally {
    URL.revokeObjectURL(address);
  }
}
