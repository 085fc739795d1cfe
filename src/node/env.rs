//! A container's environment, command and arguments. Pure: what they refer to has been fetched before.

use super::expand::{expand, expand_env};
use super::fields::{self, Addresses};
use super::resources::Allocatable;
use super::sources::{Fetched, SourceKind};
use crate::kinds::{ConfigMap, Object, Secret};
use k8s_openapi::api::core::v1 as api;
use orchd_runtime::image::Image;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an environment is made of.
pub struct Inputs<'a> {
    pub pod: &'a api::Pod,
    pub container: &'a api::Container,
    pub addresses: Addresses,
    pub node: &'a Allocatable,
    /// Services of the pod's namespace, and of `default`.
    pub services: &'a [Arc<Object>],
    pub fetched: &'a Fetched,
}

/// The ConfigMaps and Secrets that the container's environment refers to.
pub fn references(container: &api::Container) -> Vec<(SourceKind, String)> {
    let mut out = Vec::new();
    for from in container.env_from.iter().flatten() {
        out.extend(from.config_map_ref.iter().map(|r| (SourceKind::ConfigMap, r.name.clone())));
        out.extend(from.secret_ref.iter().map(|r| (SourceKind::Secret, r.name.clone())));
    }
    for from in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        out.extend(from.config_map_key_ref.iter().map(|r| (SourceKind::ConfigMap, r.name.clone())));
        out.extend(from.secret_key_ref.iter().map(|r| (SourceKind::Secret, r.name.clone())));
    }
    out.sort();
    out.dedup();
    out
}

/// The environment as the pod defines it, services included, without the image's.
///
/// # Errors
/// What is missing, in the kubelet's words: the message of `CreateContainerConfigError`.
pub fn environment(inputs: &Inputs<'_>) -> Result<BTreeMap<String, String>, String> {
    let services = service_environment(inputs);
    let mut env = BTreeMap::new();
    for from in inputs.container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(source) = &from.config_map_ref
            && let Some(map) = config_map(inputs, &source.name, source.optional)?
        {
            env.extend(map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone())));
        } else if let Some(source) = &from.secret_ref
            && let Some(secret) = secret(inputs, &source.name, source.optional)?
        {
            env.extend(secret.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned())));
        }
    }
    for var in inputs.container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => Some(expand(text, |name| env.get(name).or_else(|| services.get(name)).cloned())),
            (_, Some(from)) => value_from(inputs, from)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.insert(var.name.clone(), value);
        }
    }
    for (name, value) in services {
        env.entry(name).or_insert(value);
    }
    Ok(env)
}

/// None: it is optional and not there.
fn value_from(inputs: &Inputs<'_>, from: &api::EnvVarSource) -> Result<Option<String>, String> {
    let namespace = inputs.pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &from.field_ref {
        return fields::field(inputs.pod, &reference.field_path, inputs.addresses).map(Some);
    }
    if let Some(reference) = &from.resource_field_ref {
        return fields::resource(inputs.pod, Some(inputs.container), reference, inputs.node).map(Some);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let Some(map) = config_map(inputs, &reference.name, reference.optional)? else { return Ok(None) };
        let found = map.data.as_ref().and_then(|d| d.get(&reference.key)).cloned();
        return missing(found, reference.optional, || {
            format!("couldn't find key {} in ConfigMap {namespace}/{}", reference.key, reference.name)
        });
    }
    if let Some(reference) = &from.secret_key_ref {
        let Some(secret) = secret(inputs, &reference.name, reference.optional)? else { return Ok(None) };
        let found = secret.data.as_ref().and_then(|d| d.get(&reference.key)).map(|v| String::from_utf8_lossy(&v.0).into_owned());
        return missing(found, reference.optional, || {
            format!("couldn't find key {} in Secret {namespace}/{}", reference.key, reference.name)
        });
    }
    Ok(Some(String::new()))
}

fn missing(found: Option<String>, optional: Option<bool>, why: impl Fn() -> String) -> Result<Option<String>, String> {
    if found.is_some() || optional == Some(true) { Ok(found) } else { Err(why()) }
}

fn config_map<'a>(inputs: &'a Inputs<'_>, name: &str, optional: Option<bool>) -> Result<Option<&'a api::ConfigMap>, String> {
    match inputs.fetched.get(SourceKind::ConfigMap, name).and_then(|o| o.get::<ConfigMap>()) {
        None if optional != Some(true) => Err(format!("configmap \"{name}\" not found")),
        found => Ok(found),
    }
}

fn secret<'a>(inputs: &'a Inputs<'_>, name: &str, optional: Option<bool>) -> Result<Option<&'a api::Secret>, String> {
    match inputs.fetched.get(SourceKind::Secret, name).and_then(|o| o.get::<Secret>()) {
        None if optional != Some(true) => Err(format!("secret \"{name}\" not found")),
        found => Ok(found),
    }
}

/// Variables of the namespace's services (unless the pod wants none) and of `default/kubernetes` (always).
fn service_environment(inputs: &Inputs<'_>) -> BTreeMap<String, String> {
    let namespace = inputs.pod.metadata.namespace.as_deref();
    let links = inputs.pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
    let mut env = BTreeMap::new();
    let typed = || inputs.services.iter().filter_map(|o| o.get::<crate::kinds::Service>());
    let master = |s: &&api::Service| s.metadata.namespace.as_deref() == Some("default") && s.metadata.name.as_deref() == Some("kubernetes");
    // The namespace's own services win over the master's.
    for service in typed().filter(master) {
        service_variables(service, &mut env);
    }
    for service in typed().filter(|s| links && s.metadata.namespace.as_deref() == namespace) {
        service_variables(service, &mut env);
    }
    env
}

fn service_variables(service: &api::Service, env: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (Some(ip), Some(first)) = (spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None"), ports.first()) else {
        return;
    };
    let upper = |text: &str| text.replace('-', "_").to_uppercase();
    let prefix = upper(service.metadata.name.as_deref().unwrap_or_default());
    env.insert(format!("{prefix}_SERVICE_HOST"), ip.into());
    env.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    for (i, port) in ports.iter().enumerate() {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            env.insert(format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if i == 0 {
            env.insert(format!("{prefix}_PORT"), url.clone());
        }
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        env.insert(link.clone(), url);
        env.insert(format!("{link}_PROTO"), protocol.to_lowercase());
        env.insert(format!("{link}_PORT"), port.port.to_string());
        env.insert(format!("{link}_ADDR"), ip.into());
    }
}

/// Program and arguments: the pod's `command` replaces the image's entrypoint and cmd, its `args` the cmd alone.
pub fn arguments(container: &api::Container, image: &Image, env: &BTreeMap<String, String>) -> Vec<String> {
    let config = image.config.config();
    let entrypoint = config.as_ref().and_then(|c| c.entrypoint().clone()).unwrap_or_default();
    let cmd = config.as_ref().and_then(|c| c.cmd().clone()).unwrap_or_default();
    merge_arguments(container, entrypoint, cmd, env)
}

fn merge_arguments(container: &api::Container, entrypoint: Vec<String>, cmd: Vec<String>, env: &BTreeMap<String, String>) -> Vec<String> {
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> { list.iter().flatten().map(|t| expand_env(t, env)).collect() };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    match (command.is_empty(), args.is_empty()) {
        (true, true) => [entrypoint, cmd].concat(),
        (true, false) => [entrypoint, args].concat(),
        (false, _) => [command, args].concat(),
    }
}

/// `NAME=value` of image and pod together; the pod's win. HOSTNAME and HOME are there in any case.
pub fn process_environment(image: &Image, env: &BTreeMap<String, String>, hostname: &str, home: &str) -> Vec<String> {
    let config = image.config.config();
    let given = config.as_ref().and_then(|c| c.env().clone()).unwrap_or_default();
    merge_environment(given, env, hostname, home)
}

fn merge_environment(given: Vec<String>, env: &BTreeMap<String, String>, hostname: &str, home: &str) -> Vec<String> {
    let name = |line: &str| line.split_once('=').map_or(line, |(n, _)| n).to_owned();
    let mut out: Vec<String> = given.into_iter().filter(|line| !env.contains_key(&name(line))).collect();
    out.extend(env.iter().map(|(k, v)| format!("{k}={v}")));
    for (key, value) in [("HOSTNAME", hostname), ("HOME", home)] {
        if !out.iter().any(|line| name(line) == key) {
            out.push(format!("{key}={value}"));
        }
    }
    out
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
