/* The cache under its first name, and `export` in front of a config that is const. */
#include <cweb.h>

static int probe(struct http_request *req, struct http_response *res) {
    (void)req;
    static int one, two;
    int first = container->set("legacy_probe", &one), again = container->set("legacy_probe", &two);
    int null_name = container->set(NULL, &one), null_value = container->set("x", NULL);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %d %d %d %d", first, again, null_name, null_value,
             container->get("legacy_probe") == &one);
    return 0;
}

export const module_t config = {
    .name = "legacy_container",
    .author = "test",
    .routes = {{"/container", "GET", probe, FEATURE_FLAG_NONE}},
    .size = 1,
};
