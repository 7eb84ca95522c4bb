-- How a callback's body is packed (receiver/results/packing.py). 0: not at all, as all were before.
alter table callback add column packing smallint not null default 0;
