/** What every page is: it fills an element, and stops when its signal says so. */

export type Page = (
  main: HTMLElement,
  subject: string,
  signal: AbortSignal,
  again: () => void,
) => Promise<void>;

/** Name of the page in the browser's tab. */
export function title(text: string): void {
  document.title = `${text} · mri-posterior`;
}
