#include <parts.h>
#include <zlib.h>
#include <string.h>

int scaled(int number) {
    return number * SCALE;
}

unsigned long checksum(const char *text) {
    return crc32(0, (const unsigned char *)text, (unsigned)strlen(text));
}
