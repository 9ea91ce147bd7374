/** The service's HTTP API, as far as the viewer speaks it. Its types are the service's own. */

import createClient from "openapi-fetch";

import type { components, paths } from "./openapi";

type Schemas = components["schemas"];

export type Job = Schemas["JobOut"];
export type JobState = Schemas["JobState"];
export type Priority = Schemas["Priority"];
export type Counts = Schemas["Counts"]["counts"];
export type Report = Schemas["Report"];
export type SliceReport = Schemas["SliceReport"];
export type SelfCheck = Schemas["SelfCheckReport"];
export type Edges = Schemas["Edges"];
export type Problem = Schemas["Problem"];
export type Scan = Schemas["ScanOut"];
export type Picture = Schemas["PictureOut"];
export type Model = Schemas["Model"];
export type ModelWithCard = Schemas["ModelWithCard"];
export type Preset = Schemas["Preset"];
export type Product = Schemas["ResultOut"];
export type NewReconstruction = Schemas["ReconstructionRequest"];
export type Interval = Schemas["Interval"];
export type PointsAnswer = Schemas["PointsAnswer"];
export type RegionAnswer = Schemas["RegionAnswer"];
export type RegionQuestion = Schemas["RegionQuestion"];
export type PlaneName = NonNullable<RegionQuestion["plane"]>;
export type JobQuery = NonNullable<paths["/v1/reconstructions"]["get"]["parameters"]["query"]>;
export type PictureQuery = NonNullable<
  paths["/v1/reconstructions/{job_id}/preview.png"]["get"]["parameters"]["query"]
>;

/** A line of a job's log. */
export interface LogLine {
  ts: string;
  level: string;
  event: string;
  step?: string;
  worker?: string;
  error?: string;
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
export async function ask(asked: string | Request, options?: RequestInit): Promise<Response> {
  const request = new Request(asked, options);
  for (const [name, value] of Object.entries(authorization())) request.headers.set(name, value);
  let answer: Response;
  try {
    answer = await fetch(request);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ServiceError(unreachable());
  }
  if (!answer.ok) throw new ServiceError(await problemOf(answer));
  return answer;
}

/** Paths, parameters, bodies and answers are checked against the service's document. */
const service = createClient<paths>({ fetch: ask });

async function data<T>(answer: Promise<{ data?: T }>): Promise<T> {
  return (await answer).data as T; // `ask` has thrown where there is none
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

const JOB = "/v1/reconstructions/{job_id}";

function of(job_id: string) {
  return { params: { path: { job_id } } };
}

export const api = {
  jobs: (query: JobQuery, signal: AbortSignal) =>
    data(service.GET("/v1/reconstructions", { params: { query }, signal })),
  counts: () => data(service.GET("/v1/reconstructions/counts")),
  job: (id: string) => data(service.GET(JOB, of(id))),
  submit: (body: NewReconstruction) => data(service.POST("/v1/reconstructions", { body })),
  cancel: (id: string) => data(service.POST(`${JOB}/cancel`, of(id))),
  retry: (id: string) => data(service.POST(`${JOB}/retry`, of(id))),
  remove: (id: string) => service.DELETE(JOB, of(id)),
  products: (id: string) => data(service.GET(`${JOB}/results`, of(id))),
  pictures: (id: string) => data(service.GET(`${JOB}/volumes`, of(id))),
  volume: async (picture: Picture, sample: number) => {
    const query = picture.name === "sample" ? `?sample=${sample}` : "";
    return (await ask(picture.href + query)).arrayBuffer();
  },
  preview: async (job_id: string, query: PictureQuery): Promise<Response> => {
    const params = { path: { job_id }, query };
    return (await service.GET(`${JOB}/preview.png`, { params, parseAs: "stream" })).response;
  },
  roi: (id: string, body: RegionQuestion) => data(service.POST(`${JOB}/roi`, { ...of(id), body })),
  points: (id: string, slice: number, at: { row: number; column: number }[]) => {
    const points = at.map(({ row, column }): Corner => [row, column]);
    return data(service.POST(`${JOB}/points`, { ...of(id), body: { slice, points } }));
  },
  log: async (id: string): Promise<LogLine[]> => {
    const text = await (await ask(`/v1/reconstructions/${id}/logs`)).text();
    return text.trim().split("\n").map((line) => JSON.parse(line) as LogLine);
  },
  problems: () => data(service.GET("/v1/problems")),
  sampleScan: () => data(service.POST("/v1/scans/phantom")),
  models: () => data(service.GET("/v1/models")),
  model: (name: string) => data(service.GET("/v1/models/{name}", { params: { path: { name } } })),
  presets: () => data(service.GET("/v1/presets")),
  info: () => data(service.GET("/v1/info")),
};

/** Hand a product to the browser's downloads; a link alone could not carry the key. */
export async function download(product: Product, name: string): Promise<void> {
  const address = URL.createObjectURL(await (await ask(product.href)).blob());
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
