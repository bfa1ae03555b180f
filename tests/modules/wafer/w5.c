/* The head is read already. */
#include "server.h"
#include "nopeutils.h"

void server(Request request) {
    if (!route(request, "/w5")) {
        return;
    }
    SEND_TEXT_HTML_HEADER(request);
    for (int i = 0; request.headers[i] != NULL; i++) {
        FDPRINTF(request.client, "{%s}", request.headers[i]);
    }
    char *agent = getHeader(request.headers, "X-Agent");
    char *none = getHeader(request.headers, "X-None");
    nprintf(request.client, "<p>%s %s %s</p>", agent, none, dupstr("five"));
}
