-- The jobs that a job waits for; a row goes when its job is done.
CREATE TABLE job_dependencies (
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    needs_id INTEGER NOT NULL,
    PRIMARY KEY (job_id, needs_id)
) WITHOUT ROWID;
CREATE INDEX job_dependencies_by_need ON job_dependencies (needs_id);
