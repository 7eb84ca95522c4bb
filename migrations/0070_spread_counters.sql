-- Counters of busy batches, spread over several rows, so that several workers can settle one batch at the same time
-- (receiver/changes/counters.py). Only what a settlement counts. A number can be negative: it is added to batch_count.
-- The rows are temporary: whoever needs the batch's exact counters adds them to batch_count and result_count, and
-- deletes them. So releases 1.0.0 and 1.1.0 find all counters in batch_count, and nothing is spread while one of their
-- workers lives.
create table batch_count_part (
    batch_id         bigint not null,
    slot             smallint not null,
    -- The quarter hour of the results, as in result_count. `-infinity`: what is not counted by time.
    at               timestamptz not null,
    refused          integer not null default 0,
    withdrawn        integer not null default 0,
    overdue          integer not null default 0,
    completed        integer not null default 0,
    failed           integer not null default 0,
    canceled         integer not null default 0,
    rejected         integer not null default 0,
    other            integer not null default 0,
    polled           integer not null default 0,
    applied          integer not null default 0,
    duplicate        integer not null default 0,
    conflict         integer not null default 0,
    unmatched        integer not null default 0,
    unreadable       integer not null default 0,
    attempts         bigint not null default 0,
    duration_seconds bigint not null default 0,
    first_result_at  timestamptz,
    last_result_at   timestamptz,
    primary key (batch_id, slot, at)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What readers read: the counters of a batch, with its parts.
create view batch_total as
select c.batch_id, c.rows, c.skipped, c.refused + coalesce(p.refused, 0) as refused,
    c.withdrawn + coalesce(p.withdrawn, 0) as withdrawn, c.overdue + coalesce(p.overdue, 0) as overdue,
    c.completed + coalesce(p.completed, 0) as completed, c.failed + coalesce(p.failed, 0) as failed,
    c.canceled + coalesce(p.canceled, 0) as canceled, c.rejected + coalesce(p.rejected, 0) as rejected,
    c.other + coalesce(p.other, 0) as other, c.polled + coalesce(p.polled, 0) as polled,
    c.applied + coalesce(p.applied, 0) as applied, c.duplicate + coalesce(p.duplicate, 0) as duplicate,
    c.conflict + coalesce(p.conflict, 0) as conflict, c.unmatched + coalesce(p.unmatched, 0) as unmatched,
    c.unreadable + coalesce(p.unreadable, 0) as unreadable, c.attempts + coalesce(p.attempts, 0) as attempts,
    c.duration_seconds + coalesce(p.duration_seconds, 0) as duration_seconds,
    least(c.first_result_at, p.first_result_at) as first_result_at,
    greatest(c.last_result_at, p.last_result_at) as last_result_at, c.acknowledged_overdue
from batch_count c left join (
    select batch_id, sum(refused)::integer as refused, sum(withdrawn)::integer as withdrawn,
        sum(overdue)::integer as overdue, sum(completed)::integer as completed, sum(failed)::integer as failed,
        sum(canceled)::integer as canceled, sum(rejected)::integer as rejected, sum(other)::integer as other,
        sum(polled)::integer as polled, sum(applied)::integer as applied, sum(duplicate)::integer as duplicate,
        sum(conflict)::integer as conflict, sum(unmatched)::integer as unmatched,
        sum(unreadable)::integer as unreadable, sum(attempts)::bigint as attempts,
        sum(duration_seconds)::bigint as duration_seconds, min(first_result_at) as first_result_at,
        max(last_result_at) as last_result_at
    from batch_count_part group by batch_id
) p on p.batch_id = c.batch_id;

-- Each quarter hour of a batch has one row or more: sum them.
create view result_total as
select batch_id, at, completed, failed, canceled, rejected, other, attempts, duration_seconds from result_count
union all
select batch_id, at, completed, failed, canceled, rejected, other, attempts, duration_seconds from batch_count_part
where at > '-infinity';
