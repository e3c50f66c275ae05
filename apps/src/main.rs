//! The `bywash` command.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    bywash::cli::main(std::env::args_os())
}
