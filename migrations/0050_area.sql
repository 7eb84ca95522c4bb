-- The area of the number that was called, for the breakdown of results: the first four digits of a +1 number, the first
-- three of another. Null: the number is erased, or release 1.0.0 or 1.1.0 wrote the row.
alter table result add column area integer;
