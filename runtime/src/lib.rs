//! Images and containers. Knows OCI, not Kubernetes.

pub mod image;
pub mod sandbox;
