/*
 * Tries a regular expression that a stranger has written: each line of the body that it matches comes back.
 *
 *   cweb deploy match.c
 *   printf 'one\ntwo\nthree\n' | curl --data-binary @- 'http://127.0.0.1:8080/match?pattern=^t'
 *
 * For some patterns regexec(3) takes longer than anybody waits, and nothing can end it. So the route has CWEB_KILLABLE: each call
 * runs in a process of its own, which is killed after a second. The request is then answered 504, and no other request is affected:
 *
 *   curl -d aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac 'http://127.0.0.1:8080/match?pattern=(a*)*(a*)*\1\2b'
 */
#include <cweb.h>
#include <cweb_stream.h>

#include <regex.h>

static int match(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    const char *pattern = http_kv_get(req->params, "pattern");
    regex_t regex;
    char why[128] = "there is none";
    int error = pattern == NULL ? REG_BADPAT : regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB);
    if (error != 0) {
        if (pattern != NULL) {
            regerror(error, &regex, why, sizeof why);
        }
        return cweb_respond(res, HTTP_400_BAD_REQUEST, "text/plain", "pattern: %s\n", why);
    }
    size_t length = 0;
    char *found = calloc(1, strlen(req->body) + 2);
    for (char *line = req->body, *next; found != NULL && *line != '\0'; line = next) {
        next = line + strcspn(line, "\n");
        next += *next == '\n' ? (*next = '\0', 1) : 0;
        if (regexec(&regex, line, 0, NULL, 0) == 0) {
            length += (size_t)sprintf(found + length, "%s\n", line);
        }
    }
    regfree(&regex);
    int result = cweb_respond_data(res, HTTP_200_OK, "text/plain", found, length);
    free(found);
    return result;
}

export module_t config = {
    .name = "match",
    .author = "cweb",
    .routes = {{"/match", "POST", match, CWEB_KILLABLE | CWEB_TIMEOUT_S(1)}},
    .size = 1,
};
