/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_job.h
 * Checkpoints, files and binary events of jobs.
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
 * The submission needs a max_attempts of 2 or more: a job that may run only once is never resumed. See docs/jobs.md.
 *
 * The run function may call these functions, and so may threads that it waits for, until the run function returns. A function
 * that fails sets errno.
 */
#ifndef CWEB_JOB_H
#define CWEB_JOB_H

#include <errno.h>
#include <stddef.h>

#include <cweb.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The server's functions behind the functions below. Later servers add fields at the end; size tells how many there are. */
struct cweb_job_data {
    size_t size; /* of this structure, as the server has it */
    int (*checkpoint)(job_ctx_t *job, const void *bytes, size_t length);
    int (*resume)(job_ctx_t *job, const void **bytes, size_t *length);
    int (*file)(job_ctx_t *job, const char *name);
    int (*output)(job_ctx_t *job, const char *name);
    int (*emit_bytes)(job_ctx_t *job, const char *type, const void *bytes, size_t length);
};

/**
 * Stores length bytes as the job's checkpoint, in the place of the earlier checkpoint. Returns once the bytes are as safe as an
 * event of the job: with --durability full they are on the disk. A later run of the job gets the bytes from cweb_job_resume(),
 * whether an error, a crash, a time-out or the end of the server ended this run. A run by a retry request gets them, too. The
 * server deletes the checkpoint when the job is done or deleted.
 * Each call waits for the disk, so save about once a second, not in an inner loop.
 *
 * A length of 0 removes the checkpoint: the next run begins from the start.
 *
 * @return 0, or -1 and errno: EMSGSIZE (more than --job-checkpoint-bytes-max), ECANCELED (the job is to end or has ended),
 * EIO (the server can't store the bytes now; the earlier checkpoint stays), EINVAL (bytes is NULL), ENOSYS (job is NULL
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
 * Finds the checkpoint that earlier runs of this job have left: the last for which cweb_job_checkpoint() returned 0, or a
 * later one. Each call in a run gives the same bytes, whatever checkpoints the run saves itself. The bytes stay at their address
 * until the run function returns; do not free them.
 *
 * @return 1: *bytes and *length are the checkpoint; 0: there is no checkpoint, *bytes is NULL and *length 0; -1 and errno: EINVAL
 * (bytes or length is NULL), EIO (the checkpoint can't be read), ENOSYS (job is NULL or not this server's)
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
 * close(2) it. The module can read, seek and map the file, but can neither write it nor reach its directory.
 *
 * @return the descriptor, or -1 and errno: ENOENT (the submission has no such file), EIO (the file can't be read), EMFILE (too many
 * open files), EAGAIN (too many files are asked for at once), EINVAL (name is NULL), ENOSYS (job is NULL or not this server's)
 */
static inline int cweb_job_file(job_ctx_t *job, const char *name) {
    if (job == NULL || job->data == NULL) {
        errno = ENOSYS;
        return -1;
    }
    return job->data->file(job, name);
}

/**
 * Opens an output file of the job, for reading and writing; the first call with a name creates the file, empty. A client fetches
 * the file by GET /jobs/UUID/files/NAME once the job is done. The descriptor is the caller's: close(2) it. Write before
 * set_result: the server keeps the bytes that the file has when the job is done, and clients do not see later writes. A run that
 * fails leaves no file. Files are deleted with their job.
 *
 * name: 1 to 128 bytes of UTF-8 without '/', '\\' and control characters, not beginning with a dot; at most 64 files a run.
 *
 * @return the descriptor, or -1 and errno: EINVAL (the name is not allowed), ECANCELED (the job is to end or has a result),
 * EMFILE (too many files), ENOSPC (the disk is full), EAGAIN, ENOSYS as for cweb_job_file(). A file that takes more room
 * than --blob-bytes-max or --blobs-bytes-max allows is truncated, and the run has failed.
 */
static inline int cweb_job_output(job_ctx_t *job, const char *name) {
    if (job == NULL || job->data == NULL) {
        errno = ENOSYS;
        return -1;
    }
    return job->data->output(job, name);
}

/**
 * Emits an event whose data are bytes: a picture, a frame of sound, a part of a result. The server stores the bytes as a blob,
 * and the event in its order, with the reference {"blob":"sha256:...","bytes":LENGTH} as its data. A client that gets the event
 * fetches the bytes by GET /blobs/sha256:...; equal bytes are stored once. The blob stays as long as the job does.
 * Each call waits for the disk, so that the bytes are there before a client sees the event.
 *
 * type: as for emit_event, 1 to 128 bytes. A length of 0 is fine.
 *
 * @return 0, or -1 and errno: EMSGSIZE (more than --job-result-bytes-max), ENOSPC (--blobs-bytes-max, or the disk, has no room),
 * EDQUOT (the job has as many events as --job-events-max, or as many bytes of events as --job-events-bytes-max allows),
 * ECANCELED (the job is to end), EIO (the server can't store the bytes), EINVAL (type or bytes is NULL, or type is too long),
 * ENOSYS (job is NULL, or the server is older)
 */
static inline int cweb_job_emit_bytes(job_ctx_t *job, const char *type, const void *bytes, size_t length) {
    if (job == NULL || job->data == NULL || job->data->size <= offsetof(struct cweb_job_data, emit_bytes)) {
        errno = ENOSYS;
        return -1;
    }
    return job->data->emit_bytes(job, type, bytes, length);
}

#ifdef __cplusplus
}
#endif

#endif
