-- What a further callback for a call is compared with: those set aside that say something of their own
-- (receiver/results/set_aside.py). Repetitions are most of what is set aside, and not in it.
create index set_aside_differing on set_aside (batch_id, row, callback_id)
    where row is not null and reason <> 'same_result';
