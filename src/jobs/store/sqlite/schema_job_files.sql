-- The files that a job is given.
CREATE TABLE job_files (
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    blob TEXT NOT NULL, -- sha256:…
    PRIMARY KEY (job_id, name)
) WITHOUT ROWID;
-- Whether a blob is needed.
CREATE INDEX job_files_by_blob ON job_files (blob);
-- The files that a job that is done has made.
CREATE TABLE job_outputs (
    job_id INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    dir TEXT NOT NULL, -- of the run that made them
    bytes INTEGER NOT NULL,
    PRIMARY KEY (job_id, name)
) WITHOUT ROWID;
-- Directories whose job is gone: to be removed.
CREATE TABLE job_dirs_gone (dir TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TRIGGER job_outputs_gone AFTER DELETE ON job_outputs BEGIN
    INSERT OR IGNORE INTO job_dirs_gone (dir) VALUES (old.dir);
END;
