-- What to do with invalid rows, which a follow-up takes from its earlier batch. Null: the batch was queued before this
-- column existed, or by an older release. Then it is refuse, the default.
alter table batch add column on_invalid text;
