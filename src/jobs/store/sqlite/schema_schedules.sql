CREATE TABLE schedules (
    name TEXT NOT NULL PRIMARY KEY,
    module_name TEXT NOT NULL,
    job_name TEXT NOT NULL,
    cron TEXT NOT NULL,
    timezone TEXT NOT NULL, -- an IANA name
    payload_json TEXT NOT NULL,
    overlap INTEGER NOT NULL, -- 1: a run may begin while the one before goes on
    declared INTEGER NOT NULL, -- 1: by its module, 0: by a client
    revision INTEGER NOT NULL, -- changes with the columns above
    next_at INTEGER NOT NULL, -- the next slot, in Unix milliseconds, like every time here
    last_slot INTEGER,
    last_job TEXT, -- UUID
    runs INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0, -- slots at which the run before went on
    created_at INTEGER NOT NULL
);
-- The schedule that a job comes from, and its slot: never two jobs of one slot.
ALTER TABLE jobs ADD COLUMN schedule_name TEXT;
ALTER TABLE jobs ADD COLUMN slot_at INTEGER;
CREATE UNIQUE INDEX jobs_by_slot ON jobs (schedule_name, slot_at) WHERE schedule_name IS NOT NULL;
