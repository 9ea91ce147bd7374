/** What draws slices: NiiVue where there is WebGL2, pictures of the service elsewhere. */

import type { Picture } from "./api";
import type { Viewport } from "./viewport";
import type { Volume, Window } from "./volume";

export interface Layer {
  picture: Picture;
  sample: number;
  /** Absent where pictures are drawn by the service. */
  volume: Volume | null;
  window: Window;
  opacity: number;
}

export interface Renderer {
  readonly element: HTMLElement;
  /** Draw slice `position` of the result (slice `index` of the scan), an overlay on top. */
  show(scene: Scene): Promise<void>;
  /** The part that is seen has changed. */
  place(viewport: Viewport): void;
  dispose(): void;
}

export interface Scene {
  base: Layer;
  overlay: Layer | null;
  position: number;
  index: number;
  slices: number;
  smooth: boolean;
}

/** Whether the browser can draw volumes itself. */
export function hasWebGL2(): boolean {
  try {
    return document.createElement("canvas").getContext("webgl2") !== null;
  } catch {
    return false;
  }
}
