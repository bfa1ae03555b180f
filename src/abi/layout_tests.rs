//! Compares every mirrored structure with the C compiler's layout.

use super::native::{self, RawFault, RawField, RawGiven, RawHanded, RawParam, RawPart, RawRequest, Services};
use super::types::{HttpRequest, HttpResponse, KvPair, KvStore, WebSocket};
use super::{host, module};
use std::collections::HashMap;
use std::ffi::CStr;
use std::mem::{offset_of, size_of};

/// Offsets of fields by name; sizes of types by a name without a dot.
fn c_layout(table: *const native::LayoutEntry) -> HashMap<String, usize> {
    let mut all = HashMap::new();
    let mut entry = table;
    // SAFETY: the table is constant and ends with an entry whose name is NULL.
    unsafe {
        while !(*entry).name.is_null() {
            let name = CStr::from_ptr((*entry).name).to_str().unwrap().to_owned();
            let value = if name.contains('.') { (*entry).offset } else { (*entry).size };
            all.insert(name, value);
            entry = entry.add(1);
        }
    }
    all
}

#[test]
fn rust_and_c_agree() {
    let mut ours = module::module_layout();
    ours.extend(host::host_layout());
    ours.extend(super::job::job_layout());
    ours.extend(super::job_data::layout());
    ours.extend([
        ("http_kv_pair_t", size_of::<KvPair>()),
        ("http_kv_store_t", size_of::<KvStore>()),
        ("http_kv_store_t.capacity", offset_of!(KvStore, capacity)),
        ("http_kv_store_t.server", offset_of!(KvStore, server)),
        ("http_kv_store_t.repeated", offset_of!(KvStore, repeated)),
        ("http_kv_store_t.repeated_size", offset_of!(KvStore, repeated_size)),
        ("http_request_t", size_of::<HttpRequest>()),
        ("http_request_t.method", offset_of!(HttpRequest, method)),
        ("http_request_t.path", offset_of!(HttpRequest, path)),
        ("http_request_t.body", offset_of!(HttpRequest, body)),
        ("http_request_t.content_length", offset_of!(HttpRequest, content_length)),
        ("http_request_t.close", offset_of!(HttpRequest, close)),
        ("http_request_t.tid", offset_of!(HttpRequest, tid)),
        ("http_request_t.params", offset_of!(HttpRequest, params)),
        ("http_request_t.data", offset_of!(HttpRequest, data)),
        ("http_request_t.transfer_encoding_chunked", offset_of!(HttpRequest, transfer_encoding_chunked)),
        ("http_response_t", size_of::<HttpResponse>()),
        ("http_response_t.headers", offset_of!(HttpResponse, headers)),
        ("http_response_t.body", offset_of!(HttpResponse, body)),
        ("http_response_t.content_length", offset_of!(HttpResponse, content_length)),
        ("websocket_t", size_of::<WebSocket>()),
        ("websocket_t.client_fd", offset_of!(WebSocket, client_fd)),
        ("websocket_t.send", offset_of!(WebSocket, send)),
        ("websocket_t.close", offset_of!(WebSocket, close)),
        ("websocket_t.server", offset_of!(WebSocket, server)),
        ("cwebn_fault", size_of::<RawFault>()),
        ("cwebn_fault.stack_overflow", offset_of!(RawFault, stack_overflow)),
        ("cwebn_field", size_of::<RawField>()),
        ("cwebn_field.value_length", offset_of!(RawField, value_length)),
        ("cweb_part", size_of::<RawPart>()),
        ("cweb_part.length", offset_of!(RawPart, length)),
        ("cweb_part.reserved", offset_of!(RawPart, reserved)),
        ("cwebn_param", size_of::<RawParam>()),
        ("cwebn_request_head", size_of::<RawRequest>()),
        ("cwebn_request_head.deferred_count", offset_of!(RawRequest, deferred_count)),
        ("cwebn_request_head.socket", offset_of!(RawRequest, socket)),
        ("cwebn_request_head.used", offset_of!(RawRequest, used)),
        ("cwebn_handed", size_of::<RawHanded>()),
        ("cwebn_handed.request", offset_of!(RawHanded, request)),
        ("cwebn_handed.field_capacity", offset_of!(RawHanded, field_capacity)),
        ("cwebn_handed.refused", offset_of!(RawHanded, refused)),
        ("cwebn_handed.doing", offset_of!(RawHanded, doing)),
        ("cwebn_given", size_of::<RawGiven>()),
        ("cwebn_given.request_body", offset_of!(RawGiven, request_body)),
        ("cwebn_services", size_of::<Services>()),
        ("cwebn_services.crypto_loaded", offset_of!(Services, crypto_loaded)),
    ]);
    let theirs = c_layout(&raw const native::cwebn_layout);
    for (name, value) in ours {
        // The table may name a struct by its tag: `struct cweb_host` as `cweb_host`.
        assert_eq!(theirs.get(name), Some(&value), "{name}; C has {:?}", theirs.keys().collect::<Vec<_>>());
    }
}

#[test]
fn the_older_generation_has_its_own_tables_and_today_s_requests() {
    let (today, older) = (c_layout(&raw const native::cwebn_layout), c_layout(&raw const native::cwebn_layout_legacy));
    for (name, value) in module::legacy::layout() {
        assert_eq!(older.get(name), Some(&value), "{name}");
    }
    let shared = ["http_kv_", "http_request_t", "http_response_t", "websocket_t"];
    let shared: Vec<_> = older.iter().filter(|(name, _)| shared.iter().any(|start| name.starts_with(start))).collect();
    assert!(shared.len() > 30);
    for (name, value) in shared {
        assert_eq!(today.get(name), Some(value), "{name}");
    }
}
