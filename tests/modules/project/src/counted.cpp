#include <parts.h>

#include <set>
#include <sstream>
#include <string>

int counted(const char *text) {
    std::istringstream words{text};
    std::set<std::string> different;
    for (std::string word; words >> word;) {
        different.insert(word);
    }
    return static_cast<int>(different.size());
}
