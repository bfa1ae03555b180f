// A module in C++: counts the words of a text, the most frequent first.
//
//   cweb deploy words.cpp
//   curl -d 'to be or not to be' http://127.0.0.1:8080/words
//
// The file's name ends with .cpp, .cc or .cxx; the standard is C++20. An exception that leaves a handler ends the
// request with 500, as a crash does.
#include <cweb.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <string>
#include <vector>

static int words(cweb_context *, http_request_t *req, http_response_t *res) {
    std::istringstream text(std::string(req->body, static_cast<size_t>(req->content_length)));
    std::map<std::string, int> counts;
    for (std::string word; text >> word;) {
        ++counts[word];
    }
    std::vector<std::pair<std::string, int>> sorted(counts.begin(), counts.end());
    std::stable_sort(sorted.begin(), sorted.end(), [](const auto &a, const auto &b) { return a.second > b.second; });
    std::ostringstream out;
    for (const auto &[word, count] : sorted) {
        out << count << ' ' << word << '\n';
    }
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%s", out.str().c_str());
}

export module_t config = {
    .name = "words",
    .author = "cweb",
    .routes = {{"/words", "POST", words, NONE}},
    .size = 1,
};
