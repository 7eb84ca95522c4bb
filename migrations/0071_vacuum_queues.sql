-- Vacuum the queues after a fixed number of removed rows, however large they were once. By default Postgres waits until a
-- fifth of a table is dead, and pauses between pages. Then a queue that was large for an hour stays slow to read.
alter table poll set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0);
alter table changed_results set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0);
alter table endpoint_count set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
-- Rows go with each result. The table is as large as the calls that have none.
alter table outstanding set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- A row is updated by each group of callbacks of its batch.
alter table batch_count set (autovacuum_vacuum_scale_factor = 0.02);
alter table result_count set (autovacuum_vacuum_scale_factor = 0.02);
do $$
begin
    for slot in 0..16 loop
        execute format('alter table owed_event_%s set (autovacuum_vacuum_scale_factor = 0,'
            ' autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0)', slot);
    end loop;
end
$$;
