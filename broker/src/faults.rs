//! The broker with the test-only feature: power cuts and planted bugs (`MOSQUORUM_FS`, `MOSQUORUM_PLANT`).
fn main() -> std::process::ExitCode {
    mosquorum::program::main()
}
