-- Jobs of which no run begins.
CREATE TABLE paused_jobs (
    module_name TEXT NOT NULL,
    job_name TEXT NOT NULL,
    since INTEGER NOT NULL, -- Unix milliseconds
    PRIMARY KEY (module_name, job_name)
) WITHOUT ROWID;
