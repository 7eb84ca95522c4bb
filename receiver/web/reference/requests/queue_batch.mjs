import { readFile } from "node:fs/promises";

const form = new FormData();
form.append("csv", new Blob([await readFile("contacts.csv")]), "contacts.csv");
form.append("application_id", "7");
form.append("deployment_id", "3");
form.append("name", "December reminders");
form.append("max_attempts", "3");
form.append("reattempt_wait", "300");
const answer = await fetch(`${process.env.RECEIVER}/api/v1/batches`, {
  method: "POST",
  headers: {
    Authorization: `Bearer ${process.env.KEY}`,
    "Idempotency-Key": "reminders-2026-12-01",
  },
  body: form,
  signal: AbortSignal.timeout(75_000),
});
const batch = await answer.json();
if (!answer.ok) throw new Error(`${batch.code}: ${batch.detail}`);
console.log(batch.id);
