-- What a job that is not done has saved for its next run.
CREATE TABLE job_checkpoints (
    job_id INTEGER PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    saved_at INTEGER NOT NULL,
    bytes BLOB NOT NULL
);
