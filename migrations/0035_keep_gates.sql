-- Releases 1.0.0 and 1.1.0 do not know canceled deployments, and a number cannot be compared with an erased entry here:
-- that needs its digest. So what they must not send includes two more cases: its deployment is being canceled, and any
-- erased suppression exists. It waits for a newer worker.
create or replace function keep_gates() returns trigger language plpgsql as $$
declare
    of_batch batch%rowtype;
begin
    select * into of_batch from batch where batch_id = new.batch_id;
    if num_nonnulls(of_batch.calls_per_minute, of_batch.opens_minute, of_batch.paused_at, of_batch.canceled_at) > 0
        or new.withdrawn_calls > 0
        or exists (select from deployment_cancel d where d.application_id = of_batch.application_id
            and d.deployment_id = of_batch.deployment_id and d.state in ('waiting', 'asking'))
        or exists (select from suppression where phone_number is null)
        or exists (select from call join suppression using (phone_number)
            where call.batch_id = new.batch_id and call.submission_no = new.submission_no) then
        return null;
    end if;
    if new.state = 'sending' then
        new.released_at := now();
        new.due_at := of_batch.due_at;
    end if;
    return new;
end
$$;
