// The types of the HTTP API: an OpenAPI document on stdin becomes TypeScript on stdout.
// `make types` writes src/openapi.ts with it.

import { text } from "node:stream/consumers";

import openapiTS, { astToString, COMMENT_HEADER } from "openapi-typescript";

const document = JSON.parse(await text(process.stdin));
for (const path of Object.values(document.paths)) {
  for (const { responses } of Object.values(path)) {
    // Every refusal is the same `Problem`; api.ts throws it.
    for (const status of Object.keys(responses ?? {})) if (status >= "400") delete responses[status];
  }
}

/** Titles only repeat the names of fields. */
function untitled(node) {
  if (node === null || typeof node !== "object") return;
  if (typeof node.title === "string") delete node.title;
  Object.values(node).forEach(untitled);
}
untitled(document.components);

// What has a default may be left out of a request.
const types = await openapiTS(document, { defaultNonNullable: false });
process.stdout.write(COMMENT_HEADER + astToString(types));
