/* A module of tests/confinement.rs that wants to reach others: /connect does it as it may, /attack as it may not. NAME is its name. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <cweb.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define HANDLER(f) static int f(cweb_context_t *ctx, http_request_t *req, http_response_t *res)

static void out(http_response_t *r, const char *format, ...) {
    va_list a;
    va_start(a, format);
    size_t n = strlen(r->body);
    vsnprintf(r->body + n, HTTP_RESPONSE_SIZE - n, format, a);
    va_end(a);
}

static struct sockaddr_in at(const char *ip, int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    inet_pton(AF_INET, ip, &to.sin_addr);
    return to;
}

/* Says hello over a socket, and tells the answer. */
static void talk(http_response_t *r, const char *how, int fd) {
    char answer[16] = "";
    if (send(fd, "hello\n", 6, MSG_NOSIGNAL) != 6 || recv(fd, answer, sizeof answer - 1, MSG_WAITALL) < 0) {
        snprintf(answer, sizeof answer, "errno %d", errno);
    }
    out(r, "%s %s;", how, answer);
    close(fd);
}

HANDLER(connects) {
    (void)ctx;
    res->body[0] = 0;
    const char *ip = http_kv_get(req->params, "ip");
    struct sockaddr_in to = at(ip, atoi(http_kv_get(req->params, "port")));
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (void *)&to, sizeof to) != 0) {
        out(res, "errno %d", errno);
        close(fd);
        return 0;
    }
    int nodelay = 0;
    socklen_t length = sizeof nodelay;
    getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, &length);
    out(res, "options %d %d %d;", nodelay, fcntl(fd, F_GETFD), fcntl(fd, F_GETFL) & O_NONBLOCK);
    out(res, "again %d;", connect(fd, (void *)&to, sizeof to) ? errno : 0);
    talk(res, "blocking", fd);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, IPPROTO_TCP);
    int result = (int)syscall(SYS_connect, fd, &to, sizeof to);
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    if (result != 0 && errno == EINPROGRESS) {
        result = poll(&wait, 1, -1) != 1;
    }
    out(res, "by number %d;", result ? errno : 0);
    fcntl(fd, F_SETFL, 0);
    talk(res, "not blocking", fd);
    return 0;
}

static void tried(http_response_t *r, const char *what, long result) {
    if (result >= 0) {
        out(r, "%s;", what);
    }
}

HANDLER(attack) {
    (void)ctx;
    res->body[0] = 0;
    struct sockaddr_in to = at("127.0.0.1", atoi(http_kv_get(req->params, "port")));
    struct sockaddr_in allowed = at("127.0.0.1", atoi(http_kv_get(req->params, "allowed")));
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    struct sockaddr_un path = {.sun_family = AF_UNIX, .sun_path = "/run/socket"};
    struct iovec text = {"hello\n", 6};
    struct msghdr message = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &text, .msg_iovlen = 1};
    struct mmsghdr messages = {.msg_hdr = message};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    tried(res, "connect", connect(fd, (void *)&to, sizeof to));
    tried(res, "fastopen", sendto(fd, "hello\n", 6, MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&to, sizeof to));
    tried(res, "fastopen by sendmsg", sendmsg(fd, &message, MSG_FASTOPEN | MSG_NOSIGNAL));
    tried(res, "fastopen by sendmmsg", sendmmsg(fd, &messages, 1, MSG_FASTOPEN | MSG_NOSIGNAL));
    tried(res, "sendto", sendto(fd, "hello\n", 6, MSG_NOSIGNAL, (void *)&to, sizeof to));
    tried(res, "bind", bind(fd, (void *)&allowed, sizeof allowed));
    tried(res, "listen", listen(fd, 1));
    tried(res, "unix", connect(fd, (void *)&path, sizeof path));
    tried(res, "short", connect(fd, (void *)&allowed, 7));
    tried(res, "long", connect(fd, (void *)&allowed, 1 << 20));
    tried(res, "null", connect(fd, NULL, sizeof to));
    tried(res, "source route", setsockopt(fd, IPPROTO_IP, 4, "\x83\x07\x04\x7f\x00\x00\x01\x00", 8));
    for (int other = 0; other < 256; other++) {
        tried(res, "a descriptor of the server's", other == fd ? -1 : connect(other, (void *)&allowed, sizeof allowed));
    }
    tried(res, "datagrams", socket(AF_INET, SOCK_DGRAM, 0));
    tried(res, "raw", socket(AF_INET, SOCK_RAW, 1));
    tried(res, "sctp", socket(AF_INET, SOCK_STREAM, 132));
    tried(res, "mptcp", socket(AF_INET, SOCK_STREAM, 262));
    tried(res, "unix socket", socket(AF_UNIX, SOCK_STREAM, 0));
    tried(res, "vsock", socket(40, SOCK_STREAM, 0));
    /* A connection that is there does not become another. */
    if (connect(fd, (void *)&allowed, sizeof allowed) != 0) {
        out(res, "allowed: errno %d;", errno);
    }
    tried(res, "disconnect", connect(fd, &none, sizeof none));
    shutdown(fd, SHUT_RDWR);
    tried(res, "connect again", connect(fd, (void *)&to, sizeof to));
    tried(res, "fastopen again", sendto(fd, "hello\n", 6, MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&to, sizeof to));
    close(fd);
    out(res, "over");
    return 0;
}

export module_t config = {
    .name = NAME,
    .author = "test",
    .routes = {{"/" NAME "/connect", "GET", connects, NONE},
               {"/" NAME "/attack", "GET", attack, NONE},
               {"/" NAME "/killable", "GET", connects, CWEB_KILLABLE}},
    .size = 3,
};
