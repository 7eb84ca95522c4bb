import { readFile, writeFile } from "node:fs/promises";

let cursor = await readFile("cursor", "utf8").catch(() => null); // where the last run ended
for (;;) {
  const query = new URLSearchParams({ limit: "1000", ...(cursor && { cursor }) });
  const answer = await fetch(`${process.env.RECEIVER}/api/v1/results?${query}`, {
    headers: { Authorization: `Bearer ${process.env.KEY}`, Prefer: "wait=1" },
    signal: AbortSignal.timeout(30_000),
  });
  const page = await answer.json();
  if (!answer.ok) throw new Error(`${page.code}: ${page.detail}`);
  if (page.results.length === 0) break;
  for (const call of page.results) console.log(call.batch_id, call.row, call.state, call.outcome);
  cursor = page.next_cursor;
  await writeFile("cursor", cursor); // only after the page is processed
}
