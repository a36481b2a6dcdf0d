//! `mosquorum_passwd`.
fn main() -> std::process::ExitCode {
    mosquorum::passwd::main()
}
