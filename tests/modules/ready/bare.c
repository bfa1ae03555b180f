/* The symbols that the server looks for, without cweb.h: each part can be left out or be wrong. CONFIG_BYTES is the size of module_t. */
#ifndef ABI
#define ABI 2
#endif
#ifndef API
#define API 3
#endif

#ifndef NOTHING
const unsigned cweb_module_abi = ABI;
const unsigned cweb_module_api = API;
void cweb_bind_host(const void *host, const void *module) {
    (void)host, (void)module;
}
char config[CONFIG_BYTES] = "bare";
#endif

#ifdef MISSING
int nobody_has_this(void);
int cweb_respond(void);
int uses(void) {
    return nobody_has_this() + cweb_respond();
}
#endif

#ifdef TEXT_RELOCATION
__asm__(".text\n.globl spot\nspot: .quad spot\n");
#endif

#ifdef DIES
#include <stdlib.h>
__attribute__((constructor)) static void dies(void) {
    abort();
}
#endif

int own = 1;
