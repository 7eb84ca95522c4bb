import createClient from "openapi-fetch";
import type { paths } from "./api.js";

const { RECEIVER, KEY } = process.env;
const client = createClient<paths>({ baseUrl: RECEIVER, headers: { Authorization: `Bearer ${KEY}` } });

function check(met: boolean, what: string): asserts met {
  if (!met) throw new Error(what);
}

const queue = (csv: string) =>
  client.POST("/api/v1/batches", {
    body: { csv, application_id: 7, deployment_id: 3 },
    bodySerializer: (fields) => {
      const form = new FormData();
      for (const [name, value] of Object.entries(fields)) form.append(name, String(value));
      form.set("csv", new Blob([csv]), "contacts.csv");
      return form;
    },
  });

const queued = await queue("destination,first_name\n6175551234,Ana\n");
check(queued.data !== undefined && "id" in queued.data, "queued");
const { id } = queued.data;

const ids: number[] = [];
let cursor: string | undefined;
do {
  const page = await client.GET("/api/v1/batches", { params: { query: { limit: 1, cursor } } });
  check(page.data !== undefined, "page");
  ids.push(...page.data.batches.map((batch) => batch.id));
  cursor = page.data.next_cursor ?? undefined;
} while (cursor !== undefined);
check(ids.includes(id) && ids.length > 1, "list");

const csv = await client.GET("/api/v1/batches/{batch_id}/calls.csv", {
  params: { path: { batch_id: id } },
  parseAs: "text",
});
check(csv.data !== undefined && csv.data.startsWith("destination,first_name,"), "download");

const refused = await queue("destination\n12\n");
check(refused.error !== undefined && refused.error.code === "invalid_csv", "problem");
check("errors" in refused.error && refused.error.errors?.[0]?.row === 1, "errors");

// The members of these bodies are optional.
await client.POST("/api/v1/callbacks/replay", { body: { state: "unreadable", dry_run: true } });
await client.POST("/api/v1/batches/{batch_id}/follow-ups", { params: { path: { batch_id: id } }, body: {} });
