// What C++ brings: objects with static storage, exceptions, templates, lambdas as handlers.
#include <cweb.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

static std::string built_by_constructor = "constructed";
static std::atomic<int> calls;

static int caught(cweb_context *, http_request_t *, http_response_t *res) {
    try {
        std::vector<int> none;
        return none.at(3);
    } catch (const std::out_of_range &) {
        return cweb_respond(res, 200, "text/plain", "%s %d", built_by_constructor.c_str(), ++calls);
    }
}

static int thrown(cweb_context *, http_request_t *, http_response_t *) {
    throw std::runtime_error("nobody catches this");
}

export module_t config = {
    .name = "cpp",
    .author = "test",
    .routes = {{"/cpp/caught", "GET", caught, NONE},
               {"/cpp/thrown", "GET", thrown, NONE},
               {"/cpp/lambda", "GET",
                [](cweb_context *, http_request_t *, http_response_t *res) {
                    return cweb_respond(res, 200, "text/plain", "lambda");
                },
                NONE}},
    .size = 3,
};
