import { BatchesApi, CallsApi, Configuration, InvalidProblemFromJSON, ResponseError } from "./client/index";

const { RECEIVER, KEY } = process.env;
const configuration = new Configuration({ basePath: RECEIVER, accessToken: KEY });
const batches = new BatchesApi(configuration);
const calls = new CallsApi(configuration);

function check(met: boolean, what: string): asserts met {
  if (!met) throw new Error(what);
}

const queue = (csv: string) =>
  batches.queueBatchRaw({ csv: new Blob([csv]), applicationId: 7, deploymentId: 3, isPci: false });

async function main(): Promise<void> {
  const queued = await (await queue("destination,first_name\n6175551234,Ana\n")).value();
  check("id" in queued, "queued");
  const { id } = queued;

  const ids: number[] = [];
  let cursor: string | undefined;
  do {
    const page = await batches.listBatches({ limit: 1, cursor });
    ids.push(...page.batches.map((batch) => batch.id));
    cursor = page.nextCursor ?? undefined;
  } while (cursor !== undefined);
  check(ids.includes(id) && ids.length > 1, "list");

  check((await calls.exportCallsCsv({ batchId: id })).startsWith("destination,first_name,"), "download");

  const error: unknown = await queue("destination\n12\n").catch((error: unknown) => error);
  check(error instanceof ResponseError && error.response.status === 422, "status");
  const problem = InvalidProblemFromJSON(await error.response.json());
  check(problem.code === "invalid_csv" && problem.errors?.[0]?.row === 1, "problem");
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
