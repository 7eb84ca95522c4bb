-- What workers measured, for /metrics: histograms' buckets and sums, and plain counts. Kept here and not in
-- each worker, because only the web processes are asked for metrics, and a worker may be on another machine.

create table measured (
    -- The metric; a time's is a histogram, whose labels are `le` bounds in seconds, `count` and `sum` (microseconds).
    name  text not null,
    label text not null,
    -- Only ever added to, by each worker every few seconds: a restart resets nothing.
    value bigint not null default 0,
    primary key (name, label)
) with (fillfactor = 50);
