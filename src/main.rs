//! The cweb program.

use cweb::domain::process::symbol;
use cweb::domain::sandbox::program;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: cweb::abi::allocator::Allocator = cweb::abi::allocator::Allocator;

fn main() -> ExitCode {
    // Modules run in this process or in a child of it, and captures of routes are found where modules run.
    cweb::abi::request::set_captures(cweb::module::captures::of_route);
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // The inspection comes first, because a deployment waits for its end.
    if let [_, command, file @ ..] = args.as_slice()
        && command == "inspect"
    {
        return cweb::domain::inspect::main(file);
    }
    if let [_, command, descriptors @ ..] = args.as_slice()
        && command == "domain"
    {
        cweb::cli::start_log();
        let numbers = descriptors.iter().filter_map(|text| text.to_str()?.parse().ok()).collect::<Vec<i32>>();
        return cweb::domain::process::child::main(&numbers);
    }
    if let [_, command] = args.as_slice()
        && command == cweb::testing::COMMAND
    {
        cweb::cli::start_test_log();
        cweb::testing::child::main();
    }
    if let [_, command, offsets @ ..] = args.as_slice()
        && command == symbol::COMMAND
    {
        return symbol::main(offsets);
    }
    if let [_, command, policy, program @ ..] = args.as_slice()
        && (command == program::COMMAND || command == program::HELD_COMMAND)
    {
        return program::main(policy, program, command == program::HELD_COMMAND);
    }
    cweb::cli::main()
}
