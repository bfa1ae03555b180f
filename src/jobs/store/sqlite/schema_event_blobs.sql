-- The blobs that events of a job name.
CREATE TABLE job_event_blobs (
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    blob TEXT NOT NULL, -- sha256:…
    PRIMARY KEY (job_id, blob)
) WITHOUT ROWID;
-- Whether a blob is needed.
CREATE INDEX job_event_blobs_by_blob ON job_event_blobs (blob);
