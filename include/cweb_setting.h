/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_setting.h
 * Settings and secrets of a module, which change without a deployment: cweb config set, cweb secret set.
 */
#ifndef CWEB_SETTING_H
#define CWEB_SETTING_H

#include <stddef.h>

#include "cweb_host.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cweb_context;

/**
 * The value of a setting or a secret of this module: the value set on the server, or else the default in module.toml.
 *
 * The text stays valid and unchanged while the module is loaded. A later call may return another text: call the
 * function in each request, or let on_setting in config report changes. May be called from any thread, from onload on.
 * @param ctx  ignored; may be NULL
 * @return NULL when there is no such setting
 */
static inline const char *cweb_setting(struct cweb_context *ctx, const char *key) {
    (void)ctx;
    if (key == NULL || cweb_binding.host == NULL || cweb_binding.host->setting == NULL) {
        return NULL;
    }
    return cweb_binding.host->setting(cweb_binding.module, key);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_SETTING_H */
