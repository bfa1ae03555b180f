/* camelCase, and a stream on the descriptor. */
#include "server.h"
#include "nopeutils.h"

void server(int client, const char *queryString, const char *method) {
    if (strncmp(queryString, "/w2", 3) != 0) {
        return;
    }
    char **headers = sendAndReceiveHeaders(client);
    int lines = 0;
    while (headers[lines] != NULL) {
        lines++;
    }
    docwrite(client, "<p>two</p>");
    STATIC_SEND(client, "<p>literal</p>", 0);
    nprintf(client, "<p>%s %d %s", method, lines > 0, getQueryPath(queryString));
    FILE *stream = fdopen(dup(client), "w");
    fprintf(stream, " stream %s", headers[0]);
    fclose(stream);
    writeLongString(client, "</p>");
    freeHeaders(headers);
}
