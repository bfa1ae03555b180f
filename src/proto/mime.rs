//! Content types by the suffix of a file's name, and which of them are worth compressing.

/// Suffix, content type. Sorted by suffix.
const TYPES: &[(&str, &str)] = &[
    ("7z", "application/x-7z-compressed"),
    ("aac", "audio/aac"),
    ("apng", "image/apng"),
    ("atom", "application/atom+xml"),
    ("avi", "video/x-msvideo"),
    ("avif", "image/avif"),
    ("bin", "application/octet-stream"),
    ("bmp", "image/bmp"),
    ("bz2", "application/x-bzip2"),
    ("c", "text/plain; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("doc", "application/msword"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("eot", "application/vnd.ms-fontobject"),
    ("epub", "application/epub+zip"),
    ("flac", "audio/flac"),
    ("geojson", "application/geo+json"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("h", "text/plain; charset=utf-8"),
    ("heic", "image/heic"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("ics", "text/calendar; charset=utf-8"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonld", "application/ld+json"),
    ("jxl", "image/jxl"),
    ("log", "text/plain; charset=utf-8"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4a", "audio/mp4"),
    ("m4v", "video/mp4"),
    ("map", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mid", "audio/midi"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("mpd", "application/dash+xml"),
    ("mpeg", "video/mpeg"),
    ("ndjson", "application/x-ndjson"),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("ps", "application/postscript"),
    ("rss", "application/rss+xml"),
    ("rtf", "application/rtf"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("toml", "application/toml"),
    ("ts", "video/mp2t"),
    ("tsv", "text/tab-separated-values; charset=utf-8"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("weba", "audio/webm"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml"),
    ("xls", "application/vnd.ms-excel"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", "application/xml"),
    ("xz", "application/x-xz"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("zip", "application/zip"),
    ("zst", "application/zstd"),
];

/// Longest suffix of the table.
const SUFFIX_BYTES_MAX: usize = 11;

/// The content type for a file name's suffix, in any case.
#[must_use]
pub fn content_type(name: &[u8]) -> &'static str {
    let name = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let suffix = name.iter().rposition(|byte| *byte == b'.').and_then(|dot| name.get(dot + 1..));
    let suffix = suffix.filter(|suffix| suffix.len() <= SUFFIX_BYTES_MAX).unwrap_or_default().to_ascii_lowercase();
    let found = TYPES.binary_search_by(|(known, _)| known.as_bytes().cmp(&suffix)).ok();
    found.and_then(|at| TYPES.get(at)).map_or("application/octet-stream", |(_, content_type)| content_type)
}

/// Types of text whose names do not begin with `text/`. Images, sound, video and archives are compressed already.
const COMPRESSIBLE: &[&str] = &[
    "application/javascript",
    "application/json",
    "application/manifest+json",
    "application/rtf",
    "application/toml",
    "application/vnd.apple.mpegurl",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/x-tar",
    "application/xml",
    "application/yaml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/svg+xml",
    "image/x-icon",
];

/// Whether a body of this content type becomes much smaller by compression.
#[must_use]
pub fn is_compressible(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let essence = essence.to_ascii_lowercase();
    // Events of a stream are sent one by one; compression would delay each event until later ones.
    (essence.starts_with(b"text/") && essence != b"text/event-stream")
        || essence.ends_with(b"+json")
        || essence.ends_with(b"+xml")
        || COMPRESSIBLE.iter().any(|known| known.as_bytes() == essence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_suffix() {
        assert!(TYPES.is_sorted_by(|a, b| a.0 < b.0), "the table is sorted, each suffix once");
        assert!(TYPES.iter().all(|(suffix, _)| suffix.len() <= SUFFIX_BYTES_MAX));
        for (suffix, expected) in TYPES {
            assert_eq!(content_type(format!("dir.x/a.{}", suffix.to_uppercase()).as_bytes()), *expected);
        }
        for name in ["", "a", "dir.html/a", ".", "a.", "a.abcdefghijklm", "a.nothing"] {
            assert_eq!(content_type(name.as_bytes()), "application/octet-stream", "{name}");
        }
    }

    #[test]
    fn text_is_compressible() {
        for known in ["text/html", "TEXT/PLAIN; charset=utf-8", "application/problem+json", "application/json ; x=y"] {
            assert!(is_compressible(known.as_bytes()), "{known}");
        }
        for known in ["", "image/png", "video/mp4", "text/event-stream", "application/octet-stream", "application/zip"]
        {
            assert!(!is_compressible(known.as_bytes()), "{known}");
        }
    }
}
