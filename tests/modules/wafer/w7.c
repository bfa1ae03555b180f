/* Some days of August 2014: the api with a Request by value. */
#include "nope.h"
#include "nopeapi.h"

static void hello(Request request) {
    resPrintf(request, "<p>%s</p>", "hello");
}

void server(Request request) {
    if (routeRequest(request, "/w7", hello, true)) {
        return;
    }
    if (routeRequest(request, "/w7/form", NULL, true)) {
        char *q = RES_QUICK_FORM_TEXT(request, "Q: ", true);
        resPrintf(request, "[%s]", q == NULL ? "null" : q);
        resPuts(request, "!");
    } else if (routeRequest(request, "/w7/none", NULL, false)) {
        sendResourceNotFound(request);
    }
}
