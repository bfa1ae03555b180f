/* The first day: nothing but server.h, and the head is read by the app. */
#include "server.h"
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

void server_main(int client, const char *url, const char *method) {
    char line[1024];
    char text[4096];
    int lines = 0;
    int agent = 0;
    while (get_line(client, line, sizeof line) > 0 && strcmp(line, "\n") != 0) {
        lines++;
        agent |= strncmp(line, "X-Agent: ", 9) == 0;
    }
    if (strncmp(url, "/w0", 3) != 0) {
        return;
    }
    int body = (int)recv(client, line, sizeof line - 1, 0);
    line[body > 0 ? body : 0] = '\0';
    sprintf(text, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n%s %s agent=%d body=%s\n", method, url, agent, line);
    send(client, text, strlen(text), 0);
    close(client);
}
