/* Every macro for markup, with bars between. */
#include "wafer.h"
#include "waferapi.h"

void server(Request *request, Response *response) {
    (void)request;
    resPuts(response, LT(t) "|" LTA(t, a=1) "|" GT "|" OTAG(t) "|" OTAGA(t, a=1) "|" CTAG(t) "|" ESTAG(t) "|"
        STAG(t, a=1) "|" ATTR(k, v) "|" STR(x) "|" WSPC "|" CRLF "|" QTAG(t, "in") "|" QTAGA(t, a=1, "in") "|"
        QLINK("/u", "in") "|" QLINKA("/u", a=1, "in") "|" QIMG("/u") "|" QIMGA("/u") "|" QBR "|"
        STAGPARAMQ(t, a=1) "|" QTAGAPARAMQ(t, a=1, "in"));
}
