/** Names of files that were sent from this browser. They are never sent: a patient may be in them. */

const NAME = "mri-posterior-file-names";
const KEPT = 500;

function all(): Record<string, string> {
  try {
    return JSON.parse(localStorage.getItem(NAME) ?? "{}") as Record<string, string>;
  } catch {
    return {};
  }
}

/** The file that a job was made of, where this browser sent it. */
export function fileName(job: string): string {
  return all()[job] ?? "";
}

export function rememberFileName(job: string, name: string): void {
  const entries = [...Object.entries(all()), [job, name]].slice(-KEPT);
  localStorage.setItem(NAME, JSON.stringify(Object.fromEntries(entries)));
}
