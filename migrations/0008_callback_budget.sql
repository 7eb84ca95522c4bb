-- How many callbacks of each submission are stored, for CALLBACK_BUDGET (receiver/results/budget.py). Web processes add
-- what they stored every few seconds, so it lags behind, and a process that is killed takes its last few with it.
-- No foreign key: a callback of a purged batch is stored, too. The row goes when the batch is purged.
create table callback_budget (
    batch_id      bigint not null,
    submission_no integer not null,
    stored        bigint not null default 0,
    primary key (batch_id, submission_no)
) with (fillfactor = 50);
