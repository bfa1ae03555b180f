/* nope.h, nope_route and globals of one request: right only while one call runs at a time. */
#include <nope.h>
#include <nopeutils.h>
#include <sqlite3.h>

static sqlite3 *db;
static int calls;
static volatile int busy;

static void count(Request request) {
    if (db == NULL) {
        sqlite3_open(":memory:", &db);
        sqlite3_exec(db, "CREATE TABLE hits(n INTEGER)", NULL, NULL, NULL);
    }
    sqlite3_stmt *row;
    sqlite3_exec(db, "INSERT INTO hits VALUES(1)", NULL, NULL, NULL);
    sqlite3_prepare_v2(db, "SELECT count(*) FROM hits", -1, &row, NULL);
    sqlite3_step(row);
    FDPRINTF(request.client, "%d", sqlite3_column_int(row, 0));
    sqlite3_finalize(row);
}

static void alone(Request request) {
    int before = calls;
    int others = busy;
    busy = 1;
    usleep(2000);
    busy = 0;
    calls = before + 1;
    FDPRINTF(request.client, "%d %d", others, calls);
}

void server(Request request) {
    if (nope_route(request, "/w6/count", count, true) || ROUTE_FUNCTION_HEADERS(request, "/w6/alone", alone)) {
        return;
    }
    if (ROUTE_INLINE(request, "/w6/factor")) {
        STATIC_SEND(request.client, "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n" QTAG(p, "six"), 0);
    } else if (ROUTE_INLINE_HEADERS(request, "/w6/long")) {
        char *text = malloc(100000);
        memset(text, 'x', 100000);
        writeLongString(request.client, text, 100000);
        free(text);
    } else if (route(request, "/w6/501")) {
        unimplemented(request.client);
    }
}
