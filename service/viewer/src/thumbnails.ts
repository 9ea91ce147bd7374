/** Small pictures of finished reconstructions, asked for when they come into sight. */

import { api } from "./api";
import { h } from "./elements";

const AT_ONCE = 3;

const known = new Map<string, string>();
const waiting: [string, HTMLImageElement][] = [];
let busy = 0;

const sight = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    sight.unobserve(target);
    waiting.push([(target as HTMLElement).dataset.job ?? "", target as HTMLImageElement]);
    next();
  }
});

/** The middle slice of the mean. */
export function thumbnail(job: string): HTMLImageElement {
  const image = h("img", { class: "thumbnail", alt: "", "data-job": job, width: 56, height: 56 });
  const address = known.get(job);
  if (address === undefined) sight.observe(image);
  else image.src = address;
  return image;
}

function next(): void {
  if (busy >= AT_ONCE) return;
  const [job, image] = waiting.shift() ?? [];
  if (job === undefined || image === undefined) return;
  busy += 1;
  api
    .preview(job, {})
    .then(async (answer) => {
      const address = URL.createObjectURL(await answer.blob());
      known.set(job, address);
      image.src = address;
    })
    .catch(() => image.classList.add("none")) // the result may have been removed
    .finally(() => {
      busy -= 1;
      next();
    });
}
