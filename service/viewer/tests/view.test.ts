import { describe, expect, it } from "vitest";

import { firstView, fromQuery, toQuery } from "../src/view";

const first = firstView(3);

describe("a view in the address", () => {
  it("says nothing where nothing was chosen", () => {
    expect(toQuery(firstView(3), first).toString()).toBe("");
    expect(fromQuery(new URLSearchParams(), first)).toEqual(first);
  });

  it("comes back as it was", () => {
    const view = firstView(3);
    view.slice = 1;
    view.count = 3;
    view.panes[1] = { picture: "mean", result: "01ABC", minus: true };
    view.panes[2] = { picture: "mc-error", result: "", minus: false };
    view.sample = 4;
    view.overlay = "std";
    view.opacity = 0.4;
    view.smooth = false;
    view.windows.set("mean", { low: 0, high: 1.25 });
    view.windows.set("over-std", { low: 1e-7, high: 3e-6 });
    view.marks.A = { plane: "slices", kind: "ellipse", from: { row: 1.5, column: 2 }, to: { row: 8, column: 9 } };
    const corners = [1, 2, 3].map((row) => ({ row, column: row ** 2 }));
    view.marks.B = { plane: "columns", kind: "polygon", corners };
    view.marks.line = { from: { row: 0, column: 0 }, to: { row: 5, column: 7.25 } };
    view.zoom = 2.5;
    view.centre = { row: 10, column: 12 };
    view.cross = { row: 4, column: 5 };
    const address = toQuery(view, first).toString();
    expect(address).toContain("A=ellipse%3A1.5%2C2%2C8%2C9&B=columns-polygon%3A1%2C1%2C2%2C4%2C3%2C9");
    expect(fromQuery(new URLSearchParams(address), first)).toEqual(view);
  });

  it("is the first one where the address is nonsense", () => {
    const address =
      "slice=x&layout=9&panes=../a,<b>&sample=-1&overlay=A%20B&opacity=400&window.mean=2,1" +
      "&A=star:1,2&B=planes-polygon:1,2,3,4,5,6&line=1,2&at=1e99,0,0&cross=a,b&window.std=,";
    const view = fromQuery(new URLSearchParams(address), first);
    view.centre = null;
    expect(view).toEqual(first);
  });
});
