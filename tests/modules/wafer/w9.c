/* WAFer, with its own 404 and types. */
#include "wafer.h"
#include "waferapi.h"

void cweb_wafer_not_found(Request *request, Response *response) {
    response->apiFlags |= API_FLAGS_DONT_SET_HEADER_BEFORE_SENDING;
    resPrintf(response, "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\nno %s here", request->reqStr);
}

void server(Request *request, Response *response) {
    if (routeRequest(request, response, "/w9/json", NULL)) {
        sendStatusOKHeadersTypeEncoding(response, "application/json", NULL);
        resPuts(response, "{}");
    } else if (routeRequest(request, response, "/w9/late", NULL)) {
        resPuts(response, "body{}");
        setMimeType(response, "text/css");
    } else if (routeRequest(request, response, "/w9/flag", NULL)) {
        response->apiFlags |= API_FLAGS_HEADER_SENT;
        sendStatusOKHeadersTypeEncoding(response, "text/xml", "identity");
        resPuts(response, "<x/>");
    } else if (routeRequest(request, response, "/w9/param", NULL)) {
        char *a = getQueryParam(request, "a");
        resPrintf(response, "%s=%s %s", getQueryPath(request), a == NULL ? "null" : a, request->reqStr);
    }
}
