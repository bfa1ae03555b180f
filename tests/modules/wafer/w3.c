/* A Request by value, and the first helpers for HTML. */
#include "server.h"
#include "nopeutils.h"

void server(Request request) {
    char **lines = readHeaders(request.client);
    freeHeaders(lines);
    if (route(request, "/w3")) {
        writeStandardHeaders(request.client);
        mvhpen8(request.client, "three", "");
        hto(request.client, "div", "id,class", "a", "b");
        htoc(request.client, "b", request.method, "");
        hts(request.client, "br", "");
        htc(request.client, "div");
        char *q = hscan(request.client, request.reqStr, "What?");
        nprintf(request.client, "[%s]", q);
        hClose(request.client);
    }
}
