//! Texts of the files that the node manages for a pod: /etc/hosts, /etc/resolv.conf, and its host name. Pure.

use k8s_openapi::api::core::v1 as api;
use std::fmt::Write;
use std::net::IpAddr;

const HOSTNAME_MAX: usize = 63;
/// Limits of resolv.conf, as the kubelet keeps them.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// A pod's host name and, if it has a subdomain, the domain that follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName {
    pub name: String,
    pub domain: Option<String>,
}

impl HostName {
    pub fn of(pod: &api::Pod, cluster_domain: &str) -> Self {
        let spec = pod.spec.as_ref();
        let given = |f: fn(&api::PodSpec) -> Option<&String>| spec.and_then(f).filter(|t| !t.is_empty());
        if let Some(name) = given(|s| s.hostname_override.as_ref()) {
            return Self { name: truncated(name), domain: None };
        }
        let own = given(|s| s.hostname.as_ref()).or(pod.metadata.name.as_ref());
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = given(|s| s.subdomain.as_ref()).map(|sub| format!("{sub}.{namespace}.svc.{cluster_domain}"));
        Self { name: own.map(|n| truncated(n)).unwrap_or_default(), domain }
    }

    /// What `hostname` says in the pod.
    ///
    /// # Errors
    /// setHostnameAsFQDN with a name that the kernel does not take.
    pub fn kernel_name(&self, as_fqdn: bool) -> Result<String, String> {
        match &self.domain {
            Some(domain) if as_fqdn => {
                let full = format!("{}.{domain}", self.name);
                if full.len() <= HOSTNAME_MAX + 1 {
                    return Ok(full);
                }
                Err(format!(
                    "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({HOSTNAME_MAX} characters is the max, {} characters requested)",
                    full.len()
                ))
            }
            _ => Ok(self.name.clone()),
        }
    }
}

fn truncated(name: &str) -> String {
    let end = name.len().min(HOSTNAME_MAX);
    if name.len() <= HOSTNAME_MAX { name.to_owned() } else { name[..end].trim_end_matches(['-', '.']).to_owned() }
}

/// /etc/hosts of a pod with a network of its own.
pub fn hosts(ip: Option<IpAddr>, name: &HostName, aliases: &[api::HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    if let Some(ip) = ip {
        let line = match &name.domain {
            Some(domain) => format!("{ip}\t{}.{domain}\t{}\n", name.name, name.name),
            None => format!("{ip}\t{}\n", name.name),
        };
        out.push_str(&line);
    }
    out + &alias_lines(aliases)
}

/// /etc/hosts of a pod in the node's network: the node's, and the aliases.
pub fn host_network_hosts(node: &str, aliases: &[api::HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[api::HostAlias]) -> String {
    let mut out = String::new();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
    }
    out
}

/// The cluster's DNS, as a node is told it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// None: names are resolved as the node does it.
    pub server: Option<IpAddr>,
    /// `cluster.local`.
    pub domain: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Resolv {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolv {
    fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => out.nameservers.extend(words.next()),
                Some("search") => out.searches = words.filter(|w| w != ".").map(|w| w.trim_end_matches('.').to_owned()).collect(),
                Some("options") => out.options = words.collect(),
                _ => {}
            }
        }
        out
    }

    fn print(&self) -> String {
        let mut out = String::new();
        for server in &self.nameservers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.searches.is_empty() {
            out.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        if !self.options.is_empty() {
            out.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        out
    }

    fn keep_limits(&mut self) {
        self.nameservers.truncate(MAX_NAMESERVERS);
        self.searches.truncate(MAX_SEARCHES);
        while self.searches.join(" ").len() > MAX_SEARCH_CHARS {
            self.searches.pop();
        }
    }
}

fn push_new(list: &mut Vec<String>, items: impl IntoIterator<Item = String>) {
    for item in items {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// The pod's resolv.conf, from the node's and from dnsPolicy and dnsConfig.
pub fn resolv_conf(pod: &api::Pod, node: &str, cluster: &ClusterDns) -> String {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let host_network = spec.and_then(|s| s.host_network) == Some(true);
    let mut conf = Resolv::parse(node);
    match policy {
        "None" => conf = Resolv::default(),
        "ClusterFirst" if host_network => {}
        "ClusterFirst" | "ClusterFirstWithHostNet" => {
            if let Some(server) = cluster.server {
                conf.nameservers = vec![server.to_string()];
            }
            let (namespace, domain) = (pod.metadata.namespace.as_deref().unwrap_or_default(), &cluster.domain);
            let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            push_new(&mut searches, std::mem::take(&mut conf.searches));
            (conf.searches, conf.options) = (searches, vec!["ndots:5".into()]);
        }
        _ => {}
    }
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        push_new(&mut conf.nameservers, config.nameservers.iter().flatten().cloned());
        push_new(&mut conf.searches, config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            conf.options.retain(|o| o.split(':').next() != Some(name));
            conf.options.push(option.value.as_ref().map_or_else(|| name.to_owned(), |v| format!("{name}:{v}")));
        }
    }
    conf.keep_limits();
    conf.print()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::net::Ipv4Addr;

    fn pod(spec: Value) -> api::Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap()
    }

    #[test]
    fn hosts_files_read_as_the_kubelets() {
        let name = HostName::of(&pod(json!({"containers": [], "hostname": "h", "subdomain": "s"})), "cluster.local");
        let aliases: Vec<api::HostAlias> = serde_json::from_value(json!([{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}])).unwrap();
        let text = hosts(Some(Ipv4Addr::new(10, 0, 0, 9).into()), &name, &aliases);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.9\th.s.n.svc.cluster.local\th\n\n# Entries added by HostAliases.\n123.45.67.89\tfoo\tbar\n"));
        assert_eq!(host_network_hosts("x\n", &[]), "# Kubernetes-managed hosts file (host network).\nx\n");
    }

    #[test]
    fn host_names() {
        let of = |spec| HostName::of(&pod(spec), "cluster.local");
        assert_eq!(of(json!({"containers": []})), HostName { name: "p".into(), domain: None });
        let long = of(json!({"containers": [], "hostname": format!("{}-{}", "a".repeat(62), "b".repeat(9))}));
        assert_eq!(long.name, "a".repeat(62));
        let full = of(json!({"containers": [], "hostname": "h", "subdomain": "s"}));
        assert_eq!(full.kernel_name(true).unwrap(), "h.s.n.svc.cluster.local");
        assert_eq!(full.kernel_name(false).unwrap(), "h");
    }

    #[test]
    fn resolv_conf_follows_the_policy() {
        let node = "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nsearch corp.example.\noptions edns0\n";
        let cluster = ClusterDns { server: Some(Ipv4Addr::new(10, 96, 0, 10).into()), domain: "cluster.local".into() };
        let first = resolv_conf(&pod(json!({"containers": []})), node, &cluster);
        assert_eq!(
            first,
            "nameserver 10.96.0.10\nsearch n.svc.cluster.local svc.cluster.local cluster.local corp.example\noptions ndots:5\n"
        );
        let default = resolv_conf(&pod(json!({"containers": [], "dnsPolicy": "Default"})), node, &cluster);
        assert!(default.contains("nameserver 1.1.1.3\nsearch corp.example\noptions edns0\n"));
        let none = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["a.b"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        assert_eq!(resolv_conf(&pod(none), node, &cluster), "nameserver 9.9.9.9\nsearch a.b\noptions ndots:2 edns0\n");
    }
}
