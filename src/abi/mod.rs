//! The `repr(C)` mirror of `include/` and the services that modules call.
//!
//! Only this layer has `extern "C"`. It describes each value that crosses the C boundary once; the layers above see
//! C types only through it. The C part of the server itself is in `native/`.

pub mod allocator;
mod callbacks;
pub mod connect;
pub mod context;
mod copy_turns;
pub mod crypto;
pub mod database;
mod encoding;
pub mod events;
pub mod exceptions;
pub mod files;
pub mod frame;
pub mod guard;
pub mod handed;
pub mod host;
pub mod job;
mod job_ctx;
mod job_data;
pub mod kept;
pub mod manifest;
pub mod module;
pub mod module_calls;
pub mod module_token;
mod native;
pub mod request;
pub mod rooms;
pub mod sanitizer;
pub mod settings;
mod socket_numbers;
pub mod stream;
mod stream_callbacks;
pub mod terminated;
pub mod testing;
pub mod types;
pub mod uncancelled;
pub mod visible;
pub mod websocket;
mod work_ticket;
pub mod worker;

#[cfg(test)]
mod layout_tests;
