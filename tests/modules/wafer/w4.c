/* ENTL macros and routefh. */
#include "server.h"
#include "nopeutils.h"

static void page(int client, const char *reqStr, const char *method) {
    FDPRINT(client, QTAG(h1, "four"));
    char *number = HSCANIT(client, reqStr, "Number: ");
    FDPRINTF(client, OTAGA(p, class="x") "%s %s" CTAG(p), method, number);
}

static void bare(int client, const char *reqStr, const char *method) {
    (void)method;
    FDPRINTF(client, "HTTP/1.1 201 Created\r\nX-Bare: yes\r\n\r\n%s", reqStr);
}

void server(Request request) {
    freeHeaders(readHeaders(request.client));
    if (routefh(request, "/w4", page) || routef(request, "/w4/bare", bare)) {
        return;
    }
    if (routeh(request, "/w4/again")) {
        char *number = HSCANITIE(request.client, request.reqStr, "Once: ");
        FDPRINTF(request.client, "(%s)", number);
    }
}
