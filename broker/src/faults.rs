//! The broker with the test-only feature: power cuts and planted bugs (`MOSQUORUM_FS`, `MOSQUORUM_PLANT`).
/// Messages that wait are millions of small pieces, or a few large ones, allocated and freed on several threads; what is free
/// goes back to the system.
#[global_allocator]
static ALLOCATOR: mosquorum::allocator::Allocator = mosquorum::allocator::Allocator;

fn main() -> std::process::ExitCode {
    mosquorum::program::main()
}
