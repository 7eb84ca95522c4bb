-- Each group of callbacks updates the row of its settler. Postgres removes most dead versions at once, so there are never
-- the 1,000 that 0007 waits for. But only a vacuum lets other pages be used again: without one, the table grows by
-- a page in some minutes, and each group reads all of it.
alter table settling set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5);
