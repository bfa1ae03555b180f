/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_job.h
 * Checkpoints and files of jobs.
 *
 *     #include <cweb.h>
 *     #include <cweb_job.h>
 *
 *     static int sum(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
 *         struct { long long next, sum; } state = {0, 0};
 *         const void *saved;
 *         size_t length;
 *         if (cweb_job_resume(job, &saved, &length) == 1 && length == sizeof state) {
 *             memcpy(&state, saved, sizeof state);
 *         }
 *         for (; state.next < 1000000; state.next++) {
 *             if (state.next % 10000 == 0 && cweb_job_checkpoint(job, &state, sizeof state) != 0) {
 *                 return -1;
 *             }
 *             state.sum += state.next;
 *         }
 *         return 0;
 *     }
 *
 * with a max_attempts of 2 or more: a job that may run once only is never resumed. See docs/jobs.md.
 *
 * The functions may be called from the run function and from threads that it waits for, until it returns. What fails sets
 * errno.
 */
#ifndef CWEB_JOB_H
#define CWEB_JOB_H

#include <errno.h>
#include <stddef.h>

#include <cweb.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the functions below call; the server's. It grows at its end: size says how far it goes. */
struct cweb_job_data {
    size_t size; /* of this structure, as the server has it */
    int (*checkpoint)(job_ctx_t *job, const void *bytes, size_t length);
    int (*resume)(job_ctx_t *job, const void **bytes, size_t *length);
    int (*file)(job_ctx_t *job, const char *name);
    int (*output)(job_ctx_t *job, const char *name);
};

/**
 * Keeps length bytes as the job's checkpoint, in the place of the one before, and returns once they are stored as an event
 * of the job would be: with --durability full on the disk. A later run of the job gets them back from cweb_job_resume(),
 * whatever ended this one: an error, a crash, a time-out, the end of the server; also one that is asked for after the job has
 * failed or was canceled. The bytes go when the job is done, or deleted.
 * Each call waits for the disk, so save every second or so, not in an inner loop.
 *
 * A length of 0 keeps nothing: the next run begins from the start.
 *
 * @return 0, or -1 and errno: EMSGSIZE (more than --job-checkpoint-bytes-max), ECANCELED (the job is to end or has ended),
 * EIO (the server can't store them now; the checkpoint before is still there), EINVAL (bytes is NULL), ENOSYS (job is NULL
 * or not this server's)
 */
static inline int cweb_job_checkpoint(job_ctx_t *job, const void *bytes, size_t length) {
    if (job == NULL || job->data == NULL) {
        errno = ENOSYS;
        return -1;
    }
    return job->data->checkpoint(job, bytes, length);
}

/**
 * Finds the checkpoint that earlier runs of this job have left: the last for which cweb_job_checkpoint() returned 0, or one
 * after it. A run gets the same bytes each time, whatever it saves itself. They stay where they are until the run function
 * returns; do not free them.
 *
 * @return 1: *bytes and *length tell where they are; 0: there is none, *bytes is NULL and *length 0; -1 and errno: EINVAL
 * (bytes or length is NULL), EIO (it can't be read), ENOSYS (job is NULL or not this server's)
 */
static inline int cweb_job_resume(job_ctx_t *job, const void **bytes, size_t *length) {
    if (job == NULL || job->data == NULL) {
        errno = ENOSYS;
        return -1;
    }
    return job->data->resume(job, bytes, length);
}

/**
 * Opens a file that the job was submitted with, {"files":{"NAME":"sha256:..."}}, for reading. The descriptor is the caller's:
 * close(2) it. It can be read, sought in and mapped, and not written; the module has no way to the file's directory.
 *
 * @return the descriptor, or -1 and errno: ENOENT (the submission has no such file), EIO (it can't be read), EMFILE (too many
 * open files), EAGAIN (too many are asked for at once), EINVAL (name is NULL), ENOSYS (job is NULL or not this server's)
 */
static inline int cweb_job_file(job_ctx_t *job, const char *name) {
    if (job == NULL || job->data == NULL) {
        errno = ENOSYS;
        return -1;
    }
    return job->data->file(job, name);
}

/**
 * Opens a file that the job makes, for reading and writing; the first call with a name makes the file, empty. A client gets
 * it as GET /jobs/UUID/files/NAME once the job is done. The descriptor is the caller's: close(2) it. Write before set_result:
 * what is there when the job is done is put on the disk and kept, and later writes are not seen. A run that fails leaves no
 * file. Files are deleted with their job.
 *
 * name: 1 to 128 bytes of UTF-8 without '/', '\\' and control characters, not beginning with a dot; at most 64 files a run.
 *
 * @return the descriptor, or -1 and errno: EINVAL (no such name is possible), ECANCELED (the job is to end or has a result),
 * EMFILE (too many files), ENOSPC (the disk is full), EAGAIN, ENOSYS as for cweb_job_file(). Files that take more room than
 * --blob-bytes-max or --blobs-bytes-max allows are cut, and the run has failed.
 */
static inline int cweb_job_output(job_ctx_t *job, const char *name) {
    if (job == NULL || job->data == NULL) {
        errno = ENOSYS;
        return -1;
    }
    return job->data->output(job, name);
}

#ifdef __cplusplus
}
#endif

#endif
