/* Names with underscores. */
#include "server.h"
#include "nopeutils.h"

void server_main(int client, const char *url, const char *method) {
    (void)method;
    read_and_discard_headers(client);
    if (STREQLIT(url, "/w1/file")) {
        serve_file(client, "static/missing.html", "text/html");
    } else if (STREQLIT(url, "/w1/none")) {
        not_found(client);
    } else if (STREQLIT(url, "/w1?") || strcmp(url, "/w1") == 0) {
        write_standard_headers(client);
        write_long_string(client, "<h1>w1</h1>");
        char *name = getQueryParam(url, "name");
        FDPRINTF(client, "<p>%s</p>", name);
        free(name);
    }
}
