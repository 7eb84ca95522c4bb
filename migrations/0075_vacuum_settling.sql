-- Each group of callbacks updates the row of its settler. Postgres removes most dead versions at once, so there are never
-- the 50 for which it vacuums by default. But only a vacuum lets other pages be used again: without one, the table grows by
-- a page in some minutes, and each group reads all of it.
alter table settling set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5);
