#ifndef PARTS_H
#define PARTS_H

#ifdef __cplusplus
extern "C" {
#endif

int scaled(int number);
int counted(const char *text);
unsigned long checksum(const char *text);

#ifdef __cplusplus
}
#endif

#endif
