/** The service's HTTP API, as far as the viewer speaks it. */

export type JobState = "queued" | "running" | "cancelling" | "succeeded" | "failed" | "cancelled";

export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  request_id?: string;
}

export interface Progress {
  phase: string;
  stage: string | null;
  fraction: number;
  slice: number | null;
  position: number | null;
  slices: number | null;
  eta_s: number | null;
}

export interface SelfCheck {
  lines: number;
  residual_std: number;
  coverage_50: number;
  coverage_90: number;
}

export interface Edges {
  top: string;
  bottom: string;
  left: string;
  right: string;
}

export interface SliceReport {
  slice: number;
  converged: boolean;
  warnings: string[];
  edges?: Edges | null;
  chi2: number;
  chi2_per_coil?: number[];
  "rhat_below_1.1": number | null;
  noise_over_scale: number;
  window: number;
  self_check: SelfCheck | null;
}

export interface Summary {
  model: string;
  preset: string;
  samples: number;
  seed: number;
  evaluations_per_chain: number;
  scan_sha256: string;
  image: { shape: [number, number]; pixel_mm: [number, number] | null; slice_mm?: number | null };
  reached: {
    mc_error: number | null;
    target_mc_error: number | null;
    seconds_since_submission: number;
    deadline_s: number | null;
    deadline_met: boolean | null;
  };
  slices: SliceReport[];
  /** What intervals and standard deviations were multiplied by; absent in old reports. */
  calibration?: {
    factor: number;
    unit: string;
    units: number;
    data: string;
    date: string;
  } | null;
}

export interface Job {
  id: string;
  client_id: string | null;
  state: JobState;
  priority: string;
  preset: string;
  model: string | null;
  scan: { id: string; sha256: string };
  params: Record<string, unknown>;
  progress: Progress | null;
  attempt: number;
  worker: string | null;
  queue_position: number | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  tags: Record<string, string>;
  summary: Summary | null;
  error: Problem | null;
}

export interface Scan {
  id: string;
  slices: number;
  coils: number;
  rows: number;
  columns: number;
}

export interface Picture {
  name: string;
  label: string;
  meaning: string;
  unit: string;
  overlay: boolean;
  colours: [number, number, number][];
  /** Why it was not computed; null: it was. */
  missing: string | null;
  href: string;
}

export interface Model {
  id: string;
  sha256: string;
  licence: string;
  training: string;
  data_attributions: string[];
  card?: string;
}

export interface Preset {
  samples: number;
  evaluations_per_sample: number;
}

export interface Result {
  name: string;
  bytes: number;
  sha256: string;
  href: string;
}

export interface Interval {
  mean: number;
  std: number;
  low: number;
  high: number;
  mc_error: number;
  samples: number;
  method: string;
}

export interface RegionAnswer {
  pixels: number;
  region: Interval;
  reference: Interval | null;
  difference: Interval | null;
  level: number;
}

export type Corner = [row: number, column: number];

/** A refusal of the service, or no answer at all (`status` 0). */
export class ServiceError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
  get status(): number {
    return this.problem.status;
  }
}

const KEY = "mri-posterior-key";

/** The API key of this tab; it is gone when the tab is closed. */
export const key = {
  get: (): string | null => sessionStorage.getItem(KEY),
  set: (value: string): void => sessionStorage.setItem(KEY, value),
  forget: (): void => sessionStorage.removeItem(KEY),
};

/** Headers that say who asks. */
export function authorization(): Record<string, string> {
  const token = key.get();
  return token === null ? {} : { Authorization: `Bearer ${token}` };
}

/** Ask; every answer that is not a success becomes a ServiceError. */
export async function ask(path: string, options: RequestInit = {}): Promise<Response> {
  let answer: Response;
  try {
    const headers = { ...authorization(), ...(options.headers as Record<string, string>) };
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ServiceError(unreachable());
  }
  if (!answer.ok) throw new ServiceError(await problemOf(answer));
  return answer;
}

async function json<T>(path: string, options: RequestInit = {}): Promise<T> {
  return (await (await ask(path, options)).json()) as T;
}

function send(body: unknown): RequestInit {
  return {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
}

/** What to say when the service does not answer. */
export function unreachable(): Problem {
  return {
    type: "unreachable",
    title: "The service does not answer",
    status: 0,
    detail: "Check that it runs and that this machine can reach it; then try again.",
  };
}

async function problemOf(answer: Response): Promise<Problem> {
  try {
    return (await answer.json()) as Problem;
  } catch {
    const title = answer.statusText || "The service refused";
    return { type: "unknown", title, status: answer.status, detail: `Status ${answer.status}.` };
  }
}

const JOBS = "/v1/reconstructions";

export const api = {
  jobs: (query: URLSearchParams, signal?: AbortSignal) =>
    json<{ items: Job[]; next_cursor: string | null }>(`${JOBS}?${query}`, signal ? { signal } : {}),
  counts: () => json<{ counts: Record<JobState, number> }>(`${JOBS}/counts`),
  job: (id: string) => json<Job>(`${JOBS}/${encodeURIComponent(id)}`),
  submit: (request: Record<string, unknown>) => json<Job>(JOBS, send(request)),
  cancel: (id: string) => json<Job>(`${JOBS}/${id}/cancel`, { method: "POST" }),
  retry: (id: string) => json<Job>(`${JOBS}/${id}/retry`, { method: "POST" }),
  remove: (id: string) => ask(`${JOBS}/${id}`, { method: "DELETE" }),
  results: (id: string) => json<{ items: Result[] }>(`${JOBS}/${id}/results`),
  pictures: (id: string) => json<{ items: Picture[] }>(`${JOBS}/${id}/volumes`),
  volume: async (picture: Picture, sample: number) => {
    const query = picture.name === "sample" ? `?sample=${sample}` : "";
    return (await ask(picture.href + query)).arrayBuffer();
  },
  preview: (id: string, query: Record<string, string>) =>
    ask(`${JOBS}/${id}/preview.png?${new URLSearchParams(query)}`),
  roi: (id: string, slice: number, region: Corner[], reference: Corner[] | null) =>
    json<RegionAnswer>(
      `${JOBS}/${id}/roi`,
      send({
        slice,
        region: { polygon: region },
        reference: reference === null ? null : { polygon: reference },
      }),
    ),
  models: () => json<{ items: Model[]; default: string }>("/v1/models"),
  model: (id: string) => json<Model>(`/v1/models/${encodeURIComponent(id)}`),
  presets: () => json<{ items: Record<string, Preset>; default: string }>("/v1/presets"),
  info: () => json<{ versions: Record<string, string>; devices: string[] }>("/v1/info"),
};

/** Hand a product to the browser's downloads; a link alone could not carry the key. */
export async function download(result: Result, name: string): Promise<void> {
  const address = URL.createObjectURL(await (await ask(result.href)).blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** Whether a job can change no more. */
export function ended(state: JobState): boolean {
  return state === "succeeded" || state === "failed" || state === "cancelled";
}
