/** Scans to the service in parts, after tus 1.0: a line that breaks costs one part, not the scan. */

import { ask, authorization, ServiceError, unreachable } from "./api";
import type { Problem, Scan } from "./api";

const TUS = { "Tus-Resumable": "1.0.0" };
const PART = 16 << 20;
const ATTEMPTS = 5;

/** Upload a file; `sent` hears how many bytes have left; `reading` says how its arrays lie. */
export async function upload(
  file: Blob,
  sent: (bytes: number) => void,
  signal: AbortSignal,
  reading: Record<string, string> = {},
): Promise<Scan> {
  if (file.size === 0) {
    throw new ServiceError({
      type: "empty-file",
      title: "The file is empty",
      status: 422,
      detail: "Choose an HDF5 file with k-space.",
    });
  }
  const query = new URLSearchParams(reading).toString();
  const begun = await ask(query ? `/v1/uploads?${query}` : "/v1/uploads", {
    method: "POST",
    headers: { ...TUS, "Upload-Length": String(file.size) },
    signal,
  });
  const address = begun.headers.get("Location");
  if (address === null) throw new ServiceError(unreachable());
  let offset = 0;
  let failures = 0;
  try {
    for (;;) {
      try {
        const part = file.slice(offset, offset + PART);
        const scan = await patch(address, part, offset, (count) => sent(offset + count), signal);
        offset += part.size;
        failures = 0;
        sent(offset);
        if (scan !== null) return scan;
      } catch (error) {
        const lost = error instanceof ServiceError && error.status === 0;
        failures += 1;
        if (!lost || failures >= ATTEMPTS) throw error;
        await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** failures));
        offset = await reached(address, signal);
      }
    }
  } catch (error) {
    if (signal.aborted) void ask(address, { method: "DELETE", headers: TUS }).catch(() => {});
    throw error;
  }
}

async function reached(address: string, signal: AbortSignal): Promise<number> {
  const answer = await ask(address, { method: "HEAD", headers: TUS, signal });
  return Number(answer.headers.get("Upload-Offset"));
}

/** One part; the answer to the last one is the scan. XMLHttpRequest alone tells of progress. */
function patch(
  address: string,
  part: Blob,
  offset: number,
  progress: (bytes: number) => void,
  signal: AbortSignal,
): Promise<Scan | null> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    signal.addEventListener("abort", stop, { once: true });
    request.open("PATCH", address);
    const headers = { ...TUS, ...authorization(), "Upload-Offset": String(offset) };
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/offset+octet-stream");
    request.setRequestHeader("Prefer", "return=representation"); // the scan, not only where it is
    request.upload.onprogress = (event) => progress(event.loaded);
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    request.onerror = () => reject(new ServiceError(unreachable()));
    request.onload = () => {
      signal.removeEventListener("abort", stop);
      if (request.status === 200) resolve(JSON.parse(request.responseText) as Scan);
      else if (request.status === 204) resolve(null);
      else reject(new ServiceError(refusal(request)));
    };
    request.send(part);
  });
}

function refusal(request: XMLHttpRequest): Problem {
  try {
    return JSON.parse(request.responseText) as Problem;
  } catch {
    return { ...unreachable(), status: request.status };
  }
}
