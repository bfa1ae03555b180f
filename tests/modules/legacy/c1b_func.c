/* The same a day later: an int, `params`, `data`, `headers`. */
#include <cweb.h>
#include <http.h>

int echo(struct http_request *req, struct http_response *res) {
    char *text = map_get(req->data, "text");
    map_insert(res->headers, "Content-Type", "text/plain");
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%s %zu", text ? text : "(none)", map_size(req->params));
    res->status = HTTP_200_OK;
    return 0;
}
