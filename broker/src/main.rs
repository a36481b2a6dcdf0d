//! The broker.
fn main() -> std::process::ExitCode {
    mosquorum::program::main()
}
