/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Turns CSV (RFC 4180) into lines of JSON while it is uploaded: one object for each record, with the names of the first
 * record as its keys. Memory stays the same whatever the size.
 *
 *     curl -N -T people.csv http://127.0.0.1:8080/csv-json
 *     printf 'name,town\n"Doe, J.",Bern\n' | curl -N -T - http://127.0.0.1:8080/csv-json
 */
#include <cweb.h>
#include <cweb_stream.h>

enum { RECORD_BYTES_MAX = 64 * 1024, FIELDS_MAX = 256, OUT_BYTES = 16 * 1024 };

/* The fields of a record, one after the other, each with a NUL. */
typedef struct {
    char text[RECORD_BYTES_MAX];
    size_t used;
    size_t fields[FIELDS_MAX];
    size_t count;
} record_t;

typedef struct {
    record_t names, record;
    long long number;
    enum { FIELD_BEGINS, PLAIN, QUOTED, QUOTE_IN_QUOTED } state;
    char out[OUT_BYTES];
    size_t out_used;
    http_response_t *res;
    const char *error;
} reader_t;

static void write_bytes(reader_t *reader, const char *bytes, size_t length) {
    while (length > 0 && reader->error == NULL) {
        size_t part = OUT_BYTES - reader->out_used < length ? OUT_BYTES - reader->out_used : length;
        memcpy(reader->out + reader->out_used, bytes, part);
        reader->out_used += part, bytes += part, length -= part;
        if (reader->out_used == OUT_BYTES) {
            if (cweb_write(reader->res, reader->out, OUT_BYTES) != 0) {
                reader->error = "the client left";
            }
            reader->out_used = 0;
        }
    }
}

static void write_string(reader_t *reader, const char *text) {
    write_bytes(reader, "\"", 1);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        char escaped[8];
        if (c == '"' || c == '\\') {
            snprintf(escaped, sizeof escaped, "\\%c", c);
        } else if (c < 0x20) {
            snprintf(escaped, sizeof escaped, "\\u%04x", c);
        } else {
            escaped[0] = *text, escaped[1] = '\0';
        }
        write_bytes(reader, escaped, strlen(escaped));
    }
    write_bytes(reader, "\"", 1);
}

static const char *field(const record_t *record, size_t at) {
    return record->text + record->fields[at];
}

static void end_record(reader_t *reader) {
    record_t *record = &reader->record;
    if (reader->number++ == 0) {
        reader->names = *record;
    } else if (record->count != reader->names.count) {
        reader->error = "a record has more or fewer fields than the first one";
    } else {
        for (size_t i = 0; i < record->count; i++) {
            write_bytes(reader, i == 0 ? "{" : ",", 1);
            write_string(reader, field(&reader->names, i));
            write_bytes(reader, ":", 1);
            write_string(reader, field(record, i));
        }
        write_bytes(reader, "}\n", 2);
    }
    record->used = record->count = 0;
}

static void put(reader_t *reader, char c) {
    record_t *record = &reader->record;
    if (record->used == RECORD_BYTES_MAX) {
        reader->error = "a record is longer than 64 KiB";
        return;
    }
    record->text[record->used++] = c;
}

static void begin_field(reader_t *reader) {
    record_t *record = &reader->record;
    if (record->count == FIELDS_MAX) {
        reader->error = "a record has more than 256 fields";
        return;
    }
    record->fields[record->count++] = record->used;
    reader->state = FIELD_BEGINS;
}

static void end_field(reader_t *reader, char c) {
    put(reader, '\0');
    if (reader->error == NULL && c == ',') {
        begin_field(reader);
    } else if (reader->error == NULL) {
        end_record(reader);
    }
}

static void take(reader_t *reader, char c) {
    if (reader->record.count == 0) {
        if (c == '\r' || c == '\n') {
            return; /* the rest of a line's end, or an empty line */
        }
        begin_field(reader);
    }
    if (reader->state == QUOTED) {
        if (c == '"') {
            reader->state = QUOTE_IN_QUOTED;
        } else {
            put(reader, c);
        }
    } else if (c == '"' && reader->state == FIELD_BEGINS) {
        reader->state = QUOTED;
    } else if (c == '"' && reader->state == QUOTE_IN_QUOTED) {
        put(reader, c); /* two quotation marks stand for one */
        reader->state = QUOTED;
    } else if (c == ',' || c == '\n') {
        end_field(reader, c);
    } else if (c != '\r') {
        put(reader, c);
        reader->state = PLAIN;
    }
}

static int csv_json(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    reader_t *reader = cweb_alloc(req, sizeof *reader);
    if (reader == NULL || cweb_header(res, "content-type", "application/x-ndjson") != 0 || cweb_begin(res, HTTP_200_OK) != 0) {
        return -1;
    }
    reader->res = res;
    const void *bytes;
    size_t n;
    int got;
    while ((got = cweb_read_view(req, &bytes, &n)) > 0) {
        for (size_t i = 0; i < n && reader->error == NULL; i++) {
            take(reader, ((const char *)bytes)[i]);
        }
        if (reader->error == NULL && reader->out_used > 0 && cweb_write(res, reader->out, reader->out_used) != 0) {
            return -1;
        }
        reader->out_used = 0;
        if (reader->error != NULL) {
            break;
        }
    }
    if (got < 0) {
        return -1;
    }
    if (reader->error == NULL && reader->state == QUOTED) {
        reader->error = "a quotation mark is not closed";
    } else if (reader->error == NULL && reader->record.count > 0) {
        end_field(reader, '\n'); /* the last line has no line break */
    }
    if (reader->out_used > 0 && cweb_write(res, reader->out, reader->out_used) != 0) {
        return -1;
    }
    if (reader->error != NULL) {
        cweb_printf(res, "{\"error\":\"%s\",\"record\":%lld}\n", reader->error, reader->number);
        return -1; /* curl then reports an incomplete answer */
    }
    return 0;
}

export module_t config = {
    .name = "csv_json",
    .author = "cweb",
    .routes = {{"/csv-json", "PUT", csv_json, CWEB_STREAM}},
    .size = 1,
};
