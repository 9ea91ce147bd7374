/** Server-sent events over fetch, because EventSource can send no key. */

import { ask, ServiceError } from "./api";

export interface ServerEvent {
  type: string;
  id: string;
  data: Record<string, unknown>;
}

/** Turns the text of an event stream, in whatever pieces it comes, into events. */
export class EventReader {
  private text = "";

  read(piece: string): ServerEvent[] {
    this.text += piece.replace(/\r/g, "");
    const blocks = this.text.split("\n\n");
    this.text = blocks.pop() ?? "";
    return blocks.map(parse).filter((event) => event !== null);
  }
}

function parse(block: string): ServerEvent | null {
  let type = "message";
  let id = "";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon === 0) continue; // a comment that keeps the line open
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") type = value;
    else if (name === "id") id = value;
    else if (name === "data") data.push(value);
  }
  if (data.length === 0) return null;
  return { type, id, data: JSON.parse(data.join("\n")) as Record<string, unknown> };
}

const PAUSE = 2000;

/** Hear what happens to a job until it ends or `signal` says stop; broken lines are taken up. */
export async function follow(
  id: string,
  hear: (event: ServerEvent) => void,
  signal: AbortSignal,
): Promise<void> {
  let last = "";
  while (!signal.aborted) {
    try {
      const headers: Record<string, string> = last === "" ? {} : { "Last-Event-ID": last };
      const answer = await ask(`/v1/reconstructions/${id}/events`, { headers, signal });
      const stream = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
      const reader = new EventReader();
      for (;;) {
        const piece = await stream?.read();
        if (piece === undefined || piece.done) break;
        for (const event of reader.read(piece.value)) {
          last = event.id || last;
          hear(event);
          if (event.type === "end") return;
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      // A refusal other than "later" will be the same again.
      if (error instanceof ServiceError && error.status >= 400 && error.status < 429) return;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}
