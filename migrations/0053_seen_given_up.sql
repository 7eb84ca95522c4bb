-- How many of an endpoint's given-up events a person has seen, so that they are no longer listed as needing attention.
alter table endpoint add column seen_given_up bigint not null default 0;
