/** Volumes of reconstructions, asked for once and kept while there is room. */

import { api } from "./api";
import type { Picture } from "./api";
import { parseVolume } from "./volume";
import type { Volume } from "./volume";

const ROOM = 768 << 20;

export class Volumes {
  private readonly known = new Map<string, Promise<Volume>>();
  private readonly sizes = new Map<string, number>();

  get(picture: Picture, sample: number): Promise<Volume> {
    const name = `${picture.href} ${picture.name === "sample" ? sample : ""}`;
    let volume = this.known.get(name);
    if (volume === undefined) {
      volume = api.volume(picture, sample).then((file) => {
        this.sizes.set(name, file.byteLength);
        this.makeRoom();
        return parseVolume(file);
      });
      volume.catch(() => this.known.delete(name));
    } else {
      this.known.delete(name);
    }
    this.known.set(name, volume);
    return volume;
  }

  /** Forget the volumes that were not looked at for longest. */
  private makeRoom(): void {
    let total = [...this.sizes.values()].reduce((sum, size) => sum + size, 0);
    for (const name of this.known.keys()) {
      if (total <= ROOM || this.sizes.size <= 2) return;
      total -= this.sizes.get(name) ?? 0;
      this.sizes.delete(name);
      this.known.delete(name);
    }
  }
}
