//! Makes the etcd face's messages and services of its .proto files, without a `protoc` on the machine.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new("src/etcd/proto");
    let files = ["kv.proto", "rpc.proto", "lock.proto", "election.proto"];
    println!("cargo:rerun-if-changed={}", dir.display());
    let descriptors = protox::compile(files, [dir])?;
    let mut config = tonic_prost_build::Config::new();
    // Keys and values stay slices of the buffer that they arrived in.
    config.bytes(["."]);
    tonic_prost_build::configure().build_server(false).build_transport(false).compile_fds_with_config(descriptors, config)?;
    Ok(())
}
