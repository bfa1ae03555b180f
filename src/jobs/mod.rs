//! Background jobs: durable, retried, observed.
pub mod store;
