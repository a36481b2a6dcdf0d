//! Generates the gRPC services between nodes; their messages come from `mosquorum_proto::peer`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto/protos");
    let files = protox::compile(["raft.proto", "peer.proto"], ["../proto/protos"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .extern_path(".mosquorum.raft.v1", "::mosquorum_proto::peer::raft")
        .extern_path(".mosquorum.peer.v1", "::mosquorum_proto::peer::live")
        .compile_fds(files)?;
    Ok(())
}
