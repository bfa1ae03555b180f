//! The cweb program.

use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // The inspection process comes before everything else: a deployment waits for it.
    if let [_, command, path] = args.as_slice()
        && command == "inspect"
    {
        return cweb::domain::inspect::main(Path::new(path));
    }
    if let [_, command, descriptors @ ..] = args.as_slice()
        && command == "domain"
    {
        cweb::cli::start_log();
        let numbers = descriptors.iter().filter_map(|text| text.to_str()?.parse().ok()).collect::<Vec<i32>>();
        return cweb::domain::process::child::main(&numbers);
    }
    cweb::cli::main()
}
