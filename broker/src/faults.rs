//! The broker with the test-only feature: power cuts and planted bugs (`MOSQUORUM_FS`, `MOSQUORUM_PLANT`).
/// Messages that wait are millions of small pieces, allocated and freed on several threads; what is free goes back to the
/// system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    mosquorum::program::main()
}
