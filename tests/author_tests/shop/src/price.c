#include "price.h"

#include <stdlib.h>

int price_of(const char *text) {
    if (text == 0) {
        return -1;
    }
    return atoi(text);
}
