const answer = await fetch(`${process.env.RECEIVER}/api/v1/batches/1/calls/1`, {
  headers: { Authorization: `Bearer ${process.env.KEY}` },
  signal: AbortSignal.timeout(10_000),
});
const call = await answer.json();
if (!answer.ok) throw new Error(`${call.code}: ${call.detail}`);
console.log(call.phone_number, call.state, call.outcome);
