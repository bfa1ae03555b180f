//! The cweb program.
fn main() {}
