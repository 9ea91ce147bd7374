/** Everything that is said to NiiVue 0.69: the one place to change for another version. */

import { NVImage, Niivue } from "@niivue/niivue";

import { h } from "./elements";
import type { Layer, Renderer, Scene } from "./renderer";
import type { Viewport } from "./viewport";
import type { Volume } from "./volume";

const KEPT = 24;

/** Slices drawn by NiiVue. It draws only: pointer and keys are the page's. */
export class NiivueRenderer implements Renderer {
  readonly element = h("canvas", { class: "picture" });
  private readonly niivue = new Niivue({
    interactive: false,
    backColor: [0, 0, 0, 1],
    crosshairWidth: 0,
    show3Dcrosshair: false,
    isOrientationTextVisible: false,
    isColorbar: false,
    isRuler: false,
    isResizeCanvas: true,
    // Left is left, as in the picture; which side of the patient that is, the page says.
    isRadiologicalConvention: false,
    isNearestInterpolation: true,
    loadingText: "",
    logLevel: "warn",
  });
  private readonly images = new Map<string, { volume: Volume; image: NVImage }>();
  private readonly maps = new Set<string>();
  private viewport: Viewport | null = null;

  /** Call once, with the element in the page. Throws where WebGL2 does not work after all. */
  async attach(): Promise<void> {
    await this.niivue.attachToCanvas(this.element, false);
    this.niivue.setSliceType(this.niivue.sliceTypeAxial);
  }

  async show(scene: Scene): Promise<void> {
    const layers = scene.overlay === null ? [scene.base] : [scene.base, scene.overlay];
    const images = await Promise.all(layers.map((layer, at) => this.image(layer, at > 0)));
    this.niivue.volumes = images;
    this.niivue.back = images[0] ?? null;
    this.niivue.overlays = images.slice(1);
    this.niivue.opts.isNearestInterpolation = !scene.smooth;
    this.niivue.scene.crosshairPos[2] = (scene.position + 0.5) / scene.slices;
    this.niivue.updateGLVolume();
    this.niivue.setInterpolation(!scene.smooth);
    if (this.viewport !== null) this.place(this.viewport);
  }

  place(viewport: Viewport): void {
    this.viewport = viewport;
    const { x, y } = viewport.offset();
    const { zoom } = viewport;
    this.niivue.setPan2Dxyzmm([-x * zoom, -y * zoom, 0, zoom]);
  }

  dispose(): void {
    this.niivue.cleanup();
    this.niivue.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    this.images.clear();
  }

  private async image(layer: Layer, overlay: boolean): Promise<NVImage> {
    if (layer.volume === null) throw new Error("NiiVue needs volumes");
    const map = this.colourMap(layer, overlay);
    // The same picture below and above needs two images, with a colour map each.
    const name = `${layer.picture.name}-${layer.sample}-${overlay ? "over" : "base"}`;
    let known = this.images.get(name);
    if (known === undefined || known.volume !== layer.volume) {
      const copy = layer.volume.file.slice(0);
      const image = await NVImage.loadFromUrl({ url: `${name}.nii`, buffer: copy, colormap: map });
      known = { volume: layer.volume, image };
    }
    this.images.delete(name);
    this.images.set(name, known);
    const oldest = this.images.keys().next().value;
    if (this.images.size > KEPT && oldest !== undefined) this.images.delete(oldest);
    const { image } = known;
    image.cal_min = layer.window.low;
    image.cal_max = layer.window.high;
    image.opacity = layer.opacity;
    return image;
  }

  /** The service's colours; an overlay is transparent where it has nothing to say. */
  private colourMap(layer: Layer, overlay: boolean): string {
    const name = `${layer.picture.name}-${overlay ? "over" : "base"}`;
    if (!this.maps.has(name)) {
      const { colours } = layer.picture;
      const at = colours.map((_, stop) => Math.round((255 * stop) / (colours.length - 1)));
      this.niivue.addColormap(name, {
        R: colours.map(([red]) => red),
        G: colours.map(([, green]) => green),
        B: colours.map(([, , blue]) => blue),
        A: colours.map((_, stop) => (overlay && stop === 0 ? 0 : 255)),
        I: at,
      });
      this.maps.add(name);
    }
    return name;
  }
}
