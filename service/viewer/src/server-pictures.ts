/** Slices drawn by the service as PNG, for browsers without WebGL2. */

import { api } from "./api";
import type { PictureQuery } from "./api";
import { h } from "./elements";
import type { Layer, Renderer, Scene } from "./renderer";
import type { Viewport } from "./viewport";
import type { Window } from "./volume";

/** Two pictures on top of each other, placed by the page's own viewport. */
export class ServerPictures implements Renderer {
  readonly element: HTMLElement;
  private readonly base = h("img", { class: "server-picture", alt: "" });
  private readonly overlay = h("img", { class: "server-picture", alt: "", hidden: true });
  private readonly addresses = new Map<HTMLImageElement, string>();

  constructor(private readonly job: string) {
    this.element = h("div", { class: "picture" }, this.base, this.overlay);
  }

  async show(scene: Scene): Promise<void> {
    this.element.classList.toggle("smooth", scene.smooth);
    await Promise.all([
      this.load(this.base, scene.base, scene.index, "own"),
      scene.overlay === null
        ? (this.overlay.hidden = true)
        : this.load(this.overlay, scene.overlay, scene.index, "overlay"),
    ]);
  }

  place(viewport: Viewport): void {
    const { left, top, width, height } = viewport.frame();
    for (const image of [this.base, this.overlay]) {
      image.style.left = `${left}px`;
      image.style.top = `${top}px`;
      image.style.width = `${width}px`;
      image.style.height = `${height}px`;
    }
  }

  dispose(): void {
    for (const address of this.addresses.values()) URL.revokeObjectURL(address);
    this.addresses.clear();
  }

  private async load(
    image: HTMLImageElement,
    layer: Layer,
    index: number,
    colours: PictureQuery["colours"] & string,
  ): Promise<void> {
    const { low, high } = layer.window;
    const query: PictureQuery = {
      slice: index,
      product: layer.picture.name,
      sample: layer.sample,
      window: `${low},${high}`,
      colours,
    };
    const address = URL.createObjectURL(await (await api.preview(this.job, query)).blob());
    const before = this.addresses.get(image);
    this.addresses.set(image, address);
    image.src = address;
    await image.decode().catch(() => {});
    image.hidden = false;
    image.style.opacity = String(layer.opacity);
    if (before !== undefined) URL.revokeObjectURL(before);
  }
}

/** The ends that the service would choose for a picture of one slice. */
export async function suggestedWindow(job: string, index: number, product: string): Promise<Window> {
  const answer = await api.preview(job, { slice: index, product });
  const [low, high] = (answer.headers.get("Window") ?? "0,1").split(",").map(Number);
  return { low: low ?? 0, high: high ?? 1 };
}
