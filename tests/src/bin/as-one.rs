//! Three nodes behind one port, with Mosquitto's command line.
fn main() -> std::process::ExitCode {
    mosquorum_tests::as_one::main(std::env::args_os().skip(1).collect())
}
