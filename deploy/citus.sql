-- Distributes the tables of calls over the servers of a Citus cluster: all rows of a batch are on one server. Not tested
-- on Citus. Lists of calls, exports, the feed, deliveries and `verify` would fail there (docs/large-scale.md). Run it
-- once on the coordinator, in the service's database, after `migrate` and before the service starts, as the owner of
-- the tables. No process of release 1.0.0 or 1.1.0 may run on this database.
--   psql --dbname=receiver --set=ON_ERROR_STOP=1 --file=deploy/citus.sql
begin;

create extension if not exists citus;

-- They serve releases 1.0.0 and 1.1.0 only. Citus has no triggers on distributed tables.
drop trigger keep_gates on submission;
drop trigger forget_last_event on result;
drop trigger count_submissions on batch;
-- Local tables cannot refer to distributed ones. `purge` deletes these rows itself.
alter table external_id drop constraint external_id_batch_id_fkey;
alter table idempotency drop constraint idempotency_batch_id_fkey;
alter table draft drop constraint draft_batch_id_fkey;

-- Everything that grows with the calls.
select create_distributed_table('batch', 'batch_id');
select create_distributed_table('submission', 'batch_id', colocate_with => 'batch');
select create_distributed_table('resolution', 'batch_id', colocate_with => 'batch');
select create_distributed_table('call', 'batch_id', colocate_with => 'batch');
select create_distributed_table('skipped', 'batch_id', colocate_with => 'batch');
select create_distributed_table('outstanding', 'batch_id', colocate_with => 'batch');
select create_distributed_table('withdrawn', 'batch_id', colocate_with => 'batch');
select create_distributed_table('follow_up', 'batch_id', colocate_with => 'batch');
select create_distributed_table('callback', 'batch_id', colocate_with => 'batch');
select create_distributed_table('callback_budget', 'batch_id', colocate_with => 'batch');
select create_distributed_table('result', 'batch_id', colocate_with => 'batch');
select create_distributed_table('set_aside', 'batch_id', colocate_with => 'batch');
select create_distributed_table('batch_count', 'batch_id', colocate_with => 'batch');
select create_distributed_table('batch_count_part', 'batch_id', colocate_with => 'batch');
select create_distributed_table('result_count', 'batch_id', colocate_with => 'batch');
select create_distributed_table('acknowledged', 'batch_id', colocate_with => 'batch');

-- The other tables stay on the coordinator. Queues: small, and claimed there.
-- local: waiting
-- local: settling
-- local: poll
-- local: purge
-- local: deployment_cancel
-- local: owed_event
-- local: changed_results
-- Logs with one order over all batches, and what belongs to them.
-- local: endpoint
-- local: endpoint_count
-- local: delivery
-- local: feed_entry
-- local: feed
-- local: audit
-- Unique over all batches, or made before their batch.
-- local: external_id
-- local: idempotency
-- local: draft
-- local: draft_chunk
-- local: job
-- Small tables.
-- local: suppression
-- local: suppression_key
-- local: api_key
-- local: ended_session
-- local: signing_key
-- local: journal_writer
-- local: worker
-- local: measured
-- local: upkeep
-- local: low_water_mark
-- local: schema_migration

commit;
