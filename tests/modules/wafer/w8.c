/* Request and Response of nope.c. */
#include "nope.h"
#include "nopeapi.h"

ssize_t writeLongString(int client, const char *longString, size_t len);
char *getHeader(char **headers, char *header);

static void factor(Request *request, Response *response) {
    resPuts(response, QTAG(h1, "eight"));
    char *number = QUICK_FORM_TEXT(request, response, "Number: ");
    if (number != NULL) {
        long n = atol(number);
        for (long f = 2; f * f <= n; f++) {
            while (n % f == 0) {
                resPrintf(response, "%ld x ", f);
                n /= f;
            }
        }
        resPrintf(response, "%ld", n);
    }
    free(number);
}

static void once(Request *request, Response *response) {
    response->apiFlags |= API_FLAGS_FORM_ONLY_ON_NULL;
    char *q = QUICK_FORM_TEXT(request, response, "Q: ");
    resPrintf(response, "[%s]", q == NULL ? "null" : q);
}

void server(Request *request, Response *response) {
    routeRequest(request, response, "/w8/factor", factor);
    routeRequest(request, response, "/w8/once", once);
    if (routeRequest(request, response, "/w8/file", NULL)) {
        serveFile(response, "static/hello.txt", NULL, "text/plain");
    } else if (routeRequest(request, response, "/w8/download", NULL)) {
        serveFile(response, "static/hello.txt", "greeting.txt", "text/plain");
    } else if (routeRequest(request, response, "/w8/raw", NULL)) {
        response->apiFlags |= API_FLAGS_DONT_SET_HEADER_BEFORE_SENDING;
        resPuts(response, "HTTP/1.0 302 Found\r\nLocation: /w8/factor\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
                          "Content-Length: 999\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
        writeLongString(response->fd, "moved", 5);
    } else if (routeRequest(request, response, "/w8/agent", NULL)) {
        resPrintf(response, "%s", getHeader(request->headers, "X-Agent"));
    }
}
