/** Which part of a slice is on the screen: voxels to pixels of the stage and back. */

export interface Point {
  x: number;
  y: number;
}

export interface Voxel {
  row: number;
  column: number;
}

/** Edges, in voxels. */
export interface Box {
  top: number;
  bottom: number;
  left: number;
  right: number;
}

export interface Grid {
  rows: number;
  columns: number;
  /** Height and width of a voxel, in mm or in voxels where the scan does not say. */
  pixel: [number, number];
  /** The first row is the lowest one. */
  upward?: boolean;
}

const MOST = 32;
const LEAST = 0.5;

/** A slice in a stage. Centres of voxels are at whole numbers; the slice reaches half further. */
export class Viewport {
  zoom = 1;
  /** What lies in the middle of the stage. */
  centre: Voxel;
  width = 1;
  height = 1;

  constructor(readonly grid: Grid) {
    this.centre = this.middle();
  }

  /** Pixels of the stage per mm (or per voxel). */
  get scale(): number {
    const { rows, columns, pixel } = this.grid;
    return this.zoom * Math.min(this.width / (columns * pixel[1]), this.height / (rows * pixel[0]));
  }

  resize(width: number, height: number): void {
    this.width = Math.max(1, width);
    this.height = Math.max(1, height);
  }

  /** Show the whole slice. */
  reset(): void {
    this.zoom = 1;
    this.centre = this.middle();
  }

  toScreen(at: Voxel): Point {
    const [high, wide] = this.grid.pixel;
    return {
      x: this.width / 2 + (at.column - this.centre.column) * wide * this.scale,
      y: this.height / 2 + this.down * (at.row - this.centre.row) * high * this.scale,
    };
  }

  toVoxel(at: Point): Voxel {
    const [high, wide] = this.grid.pixel;
    return {
      row: this.centre.row + (this.down * (at.y - this.height / 2)) / (high * this.scale),
      column: this.centre.column + (at.x - this.width / 2) / (wide * this.scale),
    };
  }

  /** Enlarge so that what lies under a point stays there. */
  zoomAt(factor: number, at: Point): void {
    const held = this.toVoxel(at);
    this.zoom = Math.min(MOST, Math.max(LEAST, this.zoom * factor));
    const now = this.toVoxel(at);
    this.centre = {
      row: this.centre.row + held.row - now.row,
      column: this.centre.column + held.column - now.column,
    };
    this.keep();
  }

  /** Move what is seen by so many pixels. */
  pan(dx: number, dy: number): void {
    const [high, wide] = this.grid.pixel;
    this.centre = {
      row: this.centre.row - (this.down * dy) / (high * this.scale),
      column: this.centre.column - dx / (wide * this.scale),
    };
    this.keep();
  }

  /** Centre of the view relative to that of the slice, in mm: rightwards and upwards. */
  offset(): Point {
    const { pixel } = this.grid;
    const middle = this.middle();
    return {
      x: (this.centre.column - middle.column) * pixel[1],
      y: this.down * (middle.row - this.centre.row) * pixel[0],
    };
  }

  /** Where the slice lies on the stage. */
  frame(): { left: number; top: number; width: number; height: number } {
    const { rows, columns } = this.grid;
    return this.box({ top: -0.5, bottom: rows - 0.5, left: -0.5, right: columns - 0.5 });
  }

  /** Where a box of voxels lies on the stage. */
  box({ top, bottom, left, right }: Box): { left: number; top: number; width: number; height: number } {
    const a = this.toScreen({ row: top, column: left });
    const b = this.toScreen({ row: bottom, column: right });
    return { left: a.x, top: Math.min(a.y, b.y), width: b.x - a.x, height: Math.abs(b.y - a.y) };
  }

  private get down(): 1 | -1 {
    return this.grid.upward ? -1 : 1;
  }

  private middle(): Voxel {
    return { row: (this.grid.rows - 1) / 2, column: (this.grid.columns - 1) / 2 };
  }

  /** The slice never leaves the stage altogether. */
  private keep(): void {
    const { rows, columns } = this.grid;
    this.centre.row = Math.min(rows - 0.5, Math.max(-0.5, this.centre.row));
    this.centre.column = Math.min(columns - 0.5, Math.max(-0.5, this.centre.column));
  }
}
