-- What a callback that was not applied says about its call, so that its body is not read again when it is applied after
-- all (receiver/results/contested.py). Without a status: written by an earlier release, or the callback names no call.
alter table set_aside add column provider_status text;
alter table set_aside add column attempts smallint;
alter table set_aside add column max_attempts smallint;
alter table set_aside add column queued_at timestamptz;
alter table set_aside add column started_at timestamptz;
alter table set_aside add column ended_at timestamptz;
alter table set_aside add column duration_seconds integer;
