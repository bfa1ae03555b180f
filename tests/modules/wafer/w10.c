/* WAFer of 2016: the body of a POST, files with dates. */
#include "wafer.h"
#include "waferapi.h"

static void echo(Request *request, Response *response) {
    if (request->contentData == NULL) {
        resPuts(response, "no body");
        return;
    }
    long sum = 0;
    for (int i = 0; i < request->contentDataLen; i++) {
        sum += (unsigned char)request->contentData[i];
    }
    resPrintf(response, "%d %ld %.5s", request->contentDataLen, sum, request->contentData);
}

void server(Request *request, Response *response) {
    routeRequest(request, response, "/w10/echo", echo);
    if (routeRequest(request, response, "/w10/file", NULL)) {
        serveFile(request, response, "static/hello.txt", NULL, "text/plain");
    } else if (routeRequest(request, response, "/w10/without", NULL)) {
        serveFile(NULL, response, "static/hello.txt", NULL, "text/plain");
    } else if (routeRequest(request, response, "/w10/missing", NULL)) {
        serveFile(request, response, "static/nothing.txt", NULL, "text/plain");
    } else if (routeRequest(request, response, "/w10/exit", NULL)) {
        exit(0);
    } else if (routeRequest(request, response, "/w10/crash", NULL)) {
        resPuts(response, "half");
        *(volatile int *)0 = 1;
    } else if (routeRequest(request, response, "/w10/huge", NULL)) {
        static char block[1 << 20];
        memset(block, 'y', sizeof block);
        for (int i = 0; i < 100; i++) {
            write(response->fd, block, sizeof block);
        }
    } else if (routeRequest(request, response, "/w10/304", NULL)) {
        STATIC_SEND(response->fd, "HTTP/1.1 304 Not Modified\r\n");
    } else if (routeRequest(request, response, "/w10/plain", NULL)) {
        STATIC_SEND(response->fd, "<p>no head</p>");
    } else if (routeRequest(request, response, "/w10/dprintf", NULL)) {
        dprintf(response->fd, "HTTP/1.1 200 OK\r\nContent-Type: text/x-d\r\n\r\n%d", 42);
        close(response->fd);
    } else if (routeRequest(request, response, "/w10/who", NULL)) {
        resPrintf(response, "%s %s %s %d", request->method, request->reqStr, request->ver, request->headersLen);
    }
}
