CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL UNIQUE,
    module_name TEXT NOT NULL,
    job_name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'running', 'done', 'failed', 'canceled')),
    module_hash TEXT NOT NULL,
    created_at INTEGER NOT NULL, -- Unix milliseconds, like every time here
    updated_at INTEGER NOT NULL,
    payload_json TEXT NOT NULL,
    result_json TEXT,
    error_text TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL DEFAULT 1,
    backoff_ms INTEGER NOT NULL DEFAULT 0,
    timeout_ms INTEGER NOT NULL DEFAULT 0,
    run_at INTEGER NOT NULL,
    priority INTEGER NOT NULL DEFAULT 0,
    unique_key TEXT
);
CREATE TABLE job_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    ts INTEGER NOT NULL,
    type TEXT NOT NULL,
    data_json TEXT NOT NULL,
    final INTEGER NOT NULL DEFAULT 0 -- 1: the state change that ended the job
);
-- Lists by state and by module, newest first, from a cursor.
CREATE INDEX jobs_by_state ON jobs (state, id);
CREATE INDEX jobs_by_module ON jobs (module_name, id);
-- A job's events from a cursor; also what deleting a job walks.
CREATE INDEX job_events_by_job ON job_events (job_id, id);
CREATE UNIQUE INDEX jobs_by_unique_key ON jobs (module_name, job_name, unique_key) WHERE unique_key IS NOT NULL;
-- Retention.
CREATE INDEX jobs_by_end ON jobs (updated_at) WHERE state IN ('done', 'failed', 'canceled');
