//! `Containers`: all that the agent knows of a container runtime, as the CRI is for the kubelet.

use async_trait::async_trait;
use orchd_runtime::spec::{ContainerSpec, ProcessSpec, Resources, SandboxSpec, SandboxStatus};
use orchd_runtime::{ExecSession, Runtime, StartError, Usage};

/// Sandboxes and containers of one node. Semantics and errors are those that `orchd_runtime::Runtime` documents.
#[async_trait]
pub trait Containers: Send + Sync {
    async fn list(&self) -> Result<Vec<SandboxStatus>, StartError>;
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<i32, StartError>;
    async fn start_container(&self, sandbox: &str, spec: ContainerSpec) -> Result<(i32, i64), StartError>;
    async fn kill(&self, sandbox: &str, container: &str, signal: i32) -> Result<(), StartError>;
    async fn remove_container(&self, sandbox: &str, container: &str) -> Result<(), StartError>;
    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), StartError>;
    async fn update_resources(&self, sandbox: &str, container: Option<&str>, resources: &Resources) -> Result<(), StartError>;
    async fn exec(&self, sandbox: &str, container: &str, process: ProcessSpec, stdin: bool) -> Result<ExecSession, StartError>;
    async fn usage(&self, sandbox: &str, container: Option<&str>) -> Result<Usage, StartError>;
}

#[async_trait]
impl Containers for Runtime {
    async fn list(&self) -> Result<Vec<SandboxStatus>, StartError> {
        Self::list(self).await
    }
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<i32, StartError> {
        Self::create_sandbox(self, spec).await
    }
    async fn start_container(&self, sandbox: &str, spec: ContainerSpec) -> Result<(i32, i64), StartError> {
        Self::start_container(self, sandbox, spec).await
    }
    async fn kill(&self, sandbox: &str, container: &str, signal: i32) -> Result<(), StartError> {
        Self::kill(self, sandbox, container, signal).await
    }
    async fn remove_container(&self, sandbox: &str, container: &str) -> Result<(), StartError> {
        Self::remove_container(self, sandbox, container).await
    }
    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), StartError> {
        Self::remove_sandbox(self, sandbox).await
    }
    async fn update_resources(&self, sandbox: &str, container: Option<&str>, resources: &Resources) -> Result<(), StartError> {
        Self::update_resources(self, sandbox, container, resources).await
    }
    async fn exec(&self, sandbox: &str, container: &str, process: ProcessSpec, stdin: bool) -> Result<ExecSession, StartError> {
        Self::exec(self, sandbox, container, process, stdin).await
    }
    async fn usage(&self, sandbox: &str, container: Option<&str>) -> Result<Usage, StartError> {
        Self::usage(self, sandbox, container).await
    }
}
