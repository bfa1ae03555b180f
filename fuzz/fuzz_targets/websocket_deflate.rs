#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cweb::fuzzing::websocket_deflate(data));
