/* Makes system calls: those that no module may make, and those that libraries need. */
#define _GNU_SOURCE
#include <cweb.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(http_response_t *r, const char *name, long result) {
    size_t used = strlen(r->body);
    snprintf(r->body + used, HTTP_RESPONSE_SIZE - used, "%s %d\n", name, result < 0 ? errno : 0);
}

/* Each of these is to fail with EPERM. */
static int refused(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q;
    r->body[0] = 0;
    char here[4096], text[8] = "";
    int own = open(strcat(strcpy(here, getenv("TMPDIR")), "/file"), O_CREAT | O_RDWR, 0600);
    long flags = 0;
    struct sock_filter step = {0x06, 0, 0, 0x7fff0000};
    struct sock_fprog program = {1, &step};
    int pair[2];
    say(r, "inotify_init1", syscall(SYS_inotify_init1, 0));
    say(r, "inotify_add_watch", syscall(SYS_inotify_add_watch, -1, "/", 2));
    say(r, "pidfd_open", syscall(SYS_pidfd_open, getppid(), 0));
    say(r, "memfd_secret", syscall(SYS_memfd_secret, 0));
    say(r, "io_setup", syscall(SYS_io_setup, 1, &flags));
    say(r, "name_to_handle_at", syscall(SYS_name_to_handle_at, AT_FDCWD, "/", text, &pair, 0));
    say(r, "FS_IOC_SETFLAGS", syscall(SYS_ioctl, own, FS_IOC_SETFLAGS, &flags));
    say(r, "set-user-ID", open(strcat(here, ".s"), O_CREAT | O_RDWR, 04755));
    say(r, "set-group-ID", syscall(SYS_openat, AT_FDCWD, here, O_CREAT | O_RDWR, 02755));
    say(r, "set-user-ID of a node", mknodat(AT_FDCWD, here, S_IFREG | 04755, 0));
    say(r, "set-user-ID of a file without a name", open(getenv("TMPDIR"), O_TMPFILE | O_RDWR, 04755));
    say(r, "O_TRUNC to read", open("/dev/null", O_RDONLY | O_TRUNC));
    say(r, "access mode 3", open("/dev/null", O_ACCMODE));
    say(r, "socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair) ? -1 : (errno = EPERM, -1));
    say(r, "SO_ATTACH_FILTER", setsockopt(pair[0], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    say(r, "seccomp", syscall(SYS_seccomp, 1, 0, &program));
    say(r, "setuid", syscall(SYS_setuid, getuid()));
    say(r, "socket", socket(AF_INET, SOCK_STREAM, 0));
    say(r, "ptrace", syscall(SYS_ptrace, 0, 0, 0, 0));
    say(r, "lookup_dcookie", syscall(SYS_lookup_dcookie, 0, 0, 0));
    close(own);
    return 0;
}

static void *blocked(void *answer) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    *(long *)answer = syscall(SYS_inotify_init1, 0) < 0 ? errno : 0;
    return NULL;
}

/* What would end the process if SIGSYS were blocked, and what libc does while it is. */
static int masked(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q;
    r->body[0] = 0;
    pthread_t thread;
    long answer = 0;
    say(r, "thread", pthread_create(&thread, NULL, blocked, &answer) ? -1 : 0);
    pthread_join(thread, NULL);
    errno = (int)answer;
    say(r, "in it", -1);
    say(r, "fork", fork());
    say(r, "system", system("true") == 0 ? 0 : (errno = EPERM, -1));
    char *argv[] = {"true", NULL};
    pid_t child;
    errno = posix_spawn(&child, "/bin/true", NULL, NULL, argv, NULL);
    say(r, "posix_spawn", errno ? -1 : 0);
    pthread_attr_t attributes;
    cpu_set_t set;
    pthread_attr_init(&attributes);
    sched_getaffinity(0, sizeof set, &set);
    pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
    if (pthread_create(&thread, &attributes, blocked, &answer) == 0) {
        pthread_join(thread, NULL);
    }
    return 0;
}

/* Each of these is to succeed, or at least not to be refused. */
static int granted(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q;
    r->body[0] = 0;
    char here[4096], text[64];
    struct statx data;
    struct statfs disk;
    struct sysinfo machine;
    sigset_t none;
    sigemptyset(&none);
    snprintf(here, sizeof here, "%s/granted", getenv("TMPDIR"));
    int fd = open(here, O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0644), memory = memfd_create("m", 0);
    say(r, "open", fd);
    say(r, "ftruncate", ftruncate(fd, 4096));
    say(r, "statx", statx(AT_FDCWD, here, 0, STATX_BASIC_STATS, &data));
    say(r, "faccessat2", syscall(SYS_faccessat2, AT_FDCWD, here, R_OK, 0));
    say(r, "statfs", fstatfs(fd, &disk));
    say(r, "fallocate", fallocate(fd, 0, 0, 4096));
    say(r, "copy_file_range", syscall(SYS_copy_file_range, fd, 0, memory, 0, 64, 0) < 0 && errno != EXDEV ? -1 : 0);
    say(r, "mkfifo", (unlink(here), mkfifo(here, 0600)));
    say(r, "unlink", unlink(here));
    say(r, "memfd_create", memory);
    void *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    say(r, "mremap", (at = mremap(at, 8192, 16384, MREMAP_MAYMOVE)) == MAP_FAILED ? -1 : 0);
    say(r, "madvise", madvise(at, 8192, MADV_DONTNEED));
    say(r, "membarrier", syscall(SYS_membarrier, 0, 0, 0));
    say(r, "getrandom", getrandom(text, sizeof text, 0));
    say(r, "eventfd", eventfd(0, EFD_CLOEXEC));
    say(r, "epoll", epoll_create1(0));
    say(r, "timerfd", timerfd_create(CLOCK_MONOTONIC, 0));
    say(r, "signalfd", signalfd(-1, &none, 0));
    say(r, "pipe2", pipe2((int *)text, O_CLOEXEC));
    say(r, "sysinfo", sysinfo(&machine));
    say(r, "affinity", sched_getaffinity(0, sizeof(cpu_set_t), &(cpu_set_t){{0}}));
    say(r, "FIONREAD", ioctl(((int *)text)[0], FIONREAD, &memory));
    say(r, "waitpid", waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD ? 0 : -1);
    errno = 0;
    say(r, "no terminal", isatty(((int *)text)[0]) || errno != ENOTTY ? -1 : 0);
    say(r, "clone3", syscall(SYS_clone3, 0, 0) < 0 && errno == ENOSYS ? 0 : -1);
    say(r, "a call of tomorrow", syscall(480, 0) < 0 && errno == ENOSYS ? 0 : -1);
    close(fd);
    return 0;
}

export module_t config = {
    .name = "caller",
    .author = "test",
    .routes = {{"/refused", "GET", refused, NONE}, {"/masked", "GET", masked, NONE}, {"/granted", "GET", granted, NONE}},
    .size = 3,
};
