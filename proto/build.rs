//! Compiles the messages between nodes from `protos/` without protoc. The services are generated in `cluster`, so that
//! this crate has no runtime in its tree.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=protos");
    let files = protox::compile(["protos/raft.proto", "protos/peer.proto"], ["protos"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
