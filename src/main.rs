//! The binary: everything is in the library, where tests can reach it.

fn main() -> std::process::ExitCode {
    mailrecv::run(std::env::args_os())
}
