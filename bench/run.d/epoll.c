/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The floor in C: one thread, epoll, one recv and one send for each batch of requests. It finds the end of each head and
 * answers a constant; it checks nothing.
 *     epoll PORT
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER                                                                                                      \
    "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nAccess-Control-Allow-Origin: *\r\n"                   \
    "Content-Length: 13\r\n\r\nHello, World!"
#define FD_MAX 20000
#define BUFFER 16384

/* The bytes of requests that are not complete, by descriptor. */
static char *pending[FD_MAX];
static size_t pending_length[FD_MAX];

static void forget(int fd) {
    free(pending[fd]);
    pending[fd] = NULL;
    pending_length[fd] = 0;
    close(fd);
}

static void serve(int fd) {
    static char buffer[2 * BUFFER], answers[BUFFER];
    size_t had = pending_length[fd];
    memcpy(buffer, pending[fd] ? pending[fd] : "", had);
    ssize_t got = recv(fd, buffer + had, BUFFER, 0);
    if (got <= 0) {
        forget(fd);
        return;
    }
    size_t length = had + (size_t)got, out = 0;
    char *at = buffer, *end;
    while ((end = memmem(at, length - (size_t)(at - buffer), "\r\n\r\n", 4)) != NULL) {
        at = end + 4;
        if (out + sizeof ANSWER > sizeof answers) {
            break;
        }
        memcpy(answers + out, ANSWER, sizeof ANSWER - 1);
        out += sizeof ANSWER - 1;
    }
    size_t left = length - (size_t)(at - buffer);
    if (left > BUFFER || (left > 0 && (pending[fd] = realloc(pending[fd], left)) == NULL)) {
        forget(fd);
        return;
    }
    if (left > 0) {
        memcpy(pending[fd], at, left);
    }
    pending_length[fd] = left;
    if (out > 0 && send(fd, answers, out, MSG_NOSIGNAL) < 0) {
        forget(fd);
    }
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: epoll PORT\n");
        return 2;
    }
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(arguments[1]))};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), set = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&addr, sizeof addr) != 0 || listen(listener, 4096) != 0) {
        perror("epoll");
        return 1;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &event);
    fprintf(stderr, "listening\n");
    for (;;) {
        int ready = epoll_wait(set, events, 256, -1);
        for (int at = 0; at < ready; at++) {
            if (events[at].data.fd != listener) {
                serve(events[at].data.fd);
                continue;
            }
            int fd;
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0 && fd < FD_MAX) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}
