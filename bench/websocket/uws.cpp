// A second peer, uWebSockets, for those who have its sources: echoes at /echo, sends to all at any other path.
#include "App.h"
#include <cstdlib>

struct PerSocket {
    bool echoes;
};

int main(int argc, char **argv) {
    int port = argc > 1 ? std::atoi(argv[1]) : 0;
    uWS::App app;
    auto behavior = [&app](bool echoes) {
        uWS::App::WebSocketBehavior<PerSocket> behavior;
        behavior.compression = uWS::DISABLED;
        behavior.maxPayloadLength = 16 * 1024 * 1024;
        behavior.open = [echoes](auto *ws) {
            ws->getUserData()->echoes = echoes;
            if (!echoes) ws->subscribe("everybody");
        };
        behavior.message = [&app](auto *ws, std::string_view message, uWS::OpCode code) {
            if (ws->getUserData()->echoes) ws->send(message, code);
            else app.publish("everybody", message, code);
        };
        return behavior;
    };
    app.ws<PerSocket>("/echo", behavior(true)).ws<PerSocket>("/*", behavior(false));
    app.listen("127.0.0.1", port, [](auto *listening) {
        if (!listening) std::exit(1);
        std::fputs("listening\n", stderr);
    }).run();
}
