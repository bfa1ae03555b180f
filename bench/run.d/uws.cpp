// A peer, uWebSockets, for those who have its sources: answers a constant.
//     uwebsockets PORT
#include "App.h"
#include <cstdlib>
#include <string>

int main(int argc, char **argv) {
    int port = argc > 1 ? std::atoi(argv[1]) : 0;
    uWS::App app;
    app.get("/:path/json", [](auto *response, auto *) {
        std::string text = "{\"message\":\"Hello, World!\",\"id\":" + std::to_string(42) + "}";
        response->writeHeader("Content-Type", "application/json")->writeHeader("Access-Control-Allow-Origin", "*")->end(text);
    });
    app.get("/*", [](auto *response, auto *) {
        // It writes the date itself.
        response->writeHeader("Access-Control-Allow-Origin", "*")->end("Hello, World!");
    });
    app.listen("127.0.0.1", port, [](auto *listening) {
        if (!listening) std::exit(1);
        std::fputs("listening\n", stderr);
    }).run();
}
