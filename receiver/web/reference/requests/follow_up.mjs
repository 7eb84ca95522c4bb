const answer = await fetch(`${process.env.RECEIVER}/api/v1/batches/1/follow-ups`, {
  method: "POST",
  headers: {
    Authorization: `Bearer ${process.env.KEY}`,
    "Content-Type": "application/json",
    "Idempotency-Key": "second-try-2026-12-02",
  },
  body: JSON.stringify({ outcomes: ["failed", "rejected"], name: "Second try" }),
  signal: AbortSignal.timeout(75_000),
});
const batch = await answer.json();
if (!answer.ok) throw new Error(`${batch.code}: ${batch.detail}`);
console.log(batch.id, batch.chosen);
