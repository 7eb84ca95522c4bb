-- How many submissions a batch has. It is written with the batch and never changes.
alter table batch add column submissions integer not null default 0;

-- Releases 1.0.0 and 1.1.0 leave it 0. So it is counted here, once all submissions of the batch are stored. They are
-- numbered from 1.
create function count_submissions() returns trigger language plpgsql as $$
begin
    update batch set submissions = coalesce((select max(submission_no) from submission where batch_id = new.batch_id), 0)
    where batch_id = new.batch_id and submissions = 0;
    return null;
end
$$;
create constraint trigger count_submissions after insert on batch deferrable initially deferred for each row
    when (new.submissions = 0) execute function count_submissions();
