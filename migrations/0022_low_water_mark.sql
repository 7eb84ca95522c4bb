-- Callback ids below which nothing waits, the highest one counts: who reads `waiting` begins there
-- (receiver/database/low_water_mark.py). Entries of settled callbacks stay in its indexes until they are vacuumed, which a
-- long snapshot (a dump, `verify`) prevents. A higher mark is a new row, and not an update: the versions of a row that is
-- updated would be kept for such a snapshot, too.
create table low_water_mark (
    callback_id bigint primary key
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
