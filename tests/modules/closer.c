/* Treats the descriptors 0 to 2 as a daemon would. */
#define _GNU_SOURCE
#include <cweb.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int closes(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c;
    const char *how = http_kv_get(q->params, "how");
    how = how ? how : "";
    int result = 0;
    if (strcmp(how, "close") == 0) {
        for (int fd = 0; fd < 3; fd++) {
            result += close(fd);
        }
    } else if (strcmp(how, "fclose") == 0) {
        result = fclose(stdin) + fclose(stdout) + fclose(stderr);
    } else if (strcmp(how, "fdopen") == 0) {
        FILE *stream = fdopen(1, "w");
        result = stream != NULL ? fclose(stream) : -1;
    } else if (strcmp(how, "dup2") == 0) {
        int file = open("/dev/null", O_RDWR);
        for (int fd = 0; fd < 3; fd++) {
            result += dup2(file, fd) == fd ? 0 : -1;
        }
        close(file);
    } else if (strcmp(how, "dup3") == 0) {
        int file = open("/dev/null", O_RDWR);
        result = dup3(file, 2, O_CLOEXEC) == 2 ? 0 : -1;
        close(file);
    } else if (strcmp(how, "range") == 0) {
        close_range(0, ~0u, 0);
        closefrom(0);
        (void)!daemon(0, 0);
    } else if (strcmp(how, "reopen") == 0) {
        result = freopen("/dev/null", "w", stdin) == NULL && freopen("/dev/null", "w", stdout) == NULL ? 0 : -1;
    } else if (strcmp(how, "all") == 0) {
        /* How many are left. */
        for (int fd = 3; fd < 1024; fd++) {
            close(fd);
            syscall(SYS_close, fd);
            dup2(0, fd);
            result += close(fd) != 0 && fcntl(fd, F_GETFD) >= 0;
        }
    } else if (strcmp(how, "raw") == 0) {
        for (int fd = 0; fd < 3; fd++) {
            syscall(SYS_close, fd);
        }
    }
    printf("printed after %s\n", how);
    fprintf(stderr, "told after %s\n", how);
    return cweb_respond(r, HTTP_200_OK, "text/plain", "%d", result);
}

static int opens(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q;
    int fd = open("/dev/null", O_RDONLY);
    close(fd);
    return cweb_respond(r, HTTP_200_OK, "text/plain", "%d", fd > 2);
}

export module_t config = {.name = "closer", .author = "tests", .routes = {{"/closes", "GET", closes, NONE}, {"/inline/closes", "GET", closes, CWEB_INLINE}, {"/opens", "GET", opens, NONE}}, .size = 3};
