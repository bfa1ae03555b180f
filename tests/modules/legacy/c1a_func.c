/* The first generation: no cweb.h, no config, a handler that returns nothing, `query_params`. */
#include <http.h>
#include <map.h>
#include <stdio.h>

static int cache; /* no name of the server's yet */

void greet(struct http_request *req, struct http_response *res) {
    const char *who = map_get(req->query_params, "who");
    cache++;
    snprintf(res->body, HTTP_RESPONSE_SIZE, "hello %s by %s", who ? who : "nobody", http_methods[req->method]);
    FILE *file = fopen("/dev/null", "r");
    if (file) {
        fclose(file);
    }
    res->status = HTTP_200_OK;
}
