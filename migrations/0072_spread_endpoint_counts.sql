-- What is owed to an endpoint is counted by each transaction that settles. So it is spread over 16 rows of a slot: several
-- workers do not wait for each other's commit. Everything else is counted in part 0. A number of one part can be
-- negative; only their sums mean something.
alter table endpoint_count add column part smallint not null default 0;
alter table endpoint_count drop constraint endpoint_count_pkey;
alter table endpoint_count add primary key (endpoint_id, slot, part);
