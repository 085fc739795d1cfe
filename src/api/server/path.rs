//! Paths of the API: `/api/v1/…` and `/apis/<group>/<version>/…` name resources, everything else is a path as such.
//!
//! May import: nothing of ours. Pure.

use std::borrow::Cow;

/// What a path names. Empty strings stand for what it does not name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub plural: String,
    pub name: String,
    pub subresource: String,
    /// What follows the subresource, still escaped: the path that a proxy asks for.
    pub rest: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Resource(ResourcePath),
    /// Health, version, discovery, OpenAPI, and whatever is not found.
    Other,
}

/// Parses the path of a request, without its query. None: a segment that no name can be (a slash or NUL in it, or bytes
/// that are not UTF-8).
pub fn parse(path: &str) -> Option<Route> {
    let mut segments = path.strip_prefix('/').unwrap_or(path);
    let (group, version) = match next(&mut segments) {
        "api" => (String::new(), unescape(next(&mut segments))?),
        "apis" => (unescape(next(&mut segments))?, unescape(next(&mut segments))?),
        _ => return Some(Route::Other),
    };
    if segments.is_empty() || version.is_empty() {
        return Some(Route::Other);
    }
    let mut out = ResourcePath { group, version, ..ResourcePath::default() };
    out.plural = unescape(next(&mut segments))?;
    // `namespaces` is where the others live, and a resource itself: `namespaces/x/finalize` is about the namespace x.
    if out.plural == "namespaces" && out.group.is_empty() {
        let name = unescape(next(&mut segments))?;
        let after = segments.split('/').next().unwrap_or_default();
        if matches!(after, "" | "status" | "finalize") {
            out.name = name;
        } else {
            out.namespace = name;
            out.plural = unescape(next(&mut segments))?;
            out.name = unescape(next(&mut segments))?;
        }
    } else if out.plural == "namespaces" {
        out.namespace = unescape(next(&mut segments))?;
        out.plural = unescape(next(&mut segments))?;
        out.name = unescape(next(&mut segments))?;
    } else {
        out.name = unescape(next(&mut segments))?;
    }
    out.subresource = unescape(next(&mut segments))?;
    segments.clone_into(&mut out.rest);
    Some(if out.plural.is_empty() { Route::Other } else { Route::Resource(out) })
}

fn next<'a>(rest: &mut &'a str) -> &'a str {
    let (segment, after) = rest.split_once('/').unwrap_or((rest, ""));
    *rest = after;
    segment
}

fn unescape(segment: &str) -> Option<String> {
    let text = percent_decode(segment)?;
    if text.contains(['/', '\0']) || matches!(&*text, "." | "..") { None } else { Some(text.into_owned()) }
}

fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = text.get(at + 1..at + 3).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// group, version, namespace, plural, name, subresource, rest
    fn parts(path: &str) -> [String; 7] {
        match parse(path) {
            Some(Route::Resource(p)) => [p.group, p.version, p.namespace, p.plural, p.name, p.subresource, p.rest],
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn resources() {
        for (path, want) in [
            ("/api/v1/pods", ["", "v1", "", "pods", "", "", ""]),
            ("/api/v1/nodes/n1", ["", "v1", "", "nodes", "n1", "", ""]),
            ("/api/v1/nodes/n1/status", ["", "v1", "", "nodes", "n1", "status", ""]),
            ("/api/v1/namespaces", ["", "v1", "", "namespaces", "", "", ""]),
            ("/api/v1/namespaces/ns", ["", "v1", "", "namespaces", "ns", "", ""]),
            ("/api/v1/namespaces/ns/finalize", ["", "v1", "", "namespaces", "ns", "finalize", ""]),
            ("/api/v1/namespaces/ns/status", ["", "v1", "", "namespaces", "ns", "status", ""]),
            ("/api/v1/namespaces/ns/pods", ["", "v1", "ns", "pods", "", "", ""]),
            ("/api/v1/namespaces/ns/pods/p/log", ["", "v1", "ns", "pods", "p", "log", ""]),
            ("/api/v1/namespaces/ns/pods/p/proxy/a%2Fb/c", ["", "v1", "ns", "pods", "p", "proxy", "a%2Fb/c"]),
            ("/api/v1/namespaces/ns/services/https:s:port/proxy/", ["", "v1", "ns", "services", "https:s:port", "proxy", ""]),
            ("/apis/apps/v1/deployments", ["apps", "v1", "", "deployments", "", "", ""]),
            ("/apis/apps/v1/namespaces/ns/deployments/d/scale", ["apps", "v1", "ns", "deployments", "d", "scale", ""]),
            ("/api/v1/namespaces/n%73/configmaps/a%3ab", ["", "v1", "ns", "configmaps", "a:b", "", ""]),
        ] {
            assert_eq!(parts(path), want.map(str::to_owned), "{path}");
        }
    }

    #[test]
    fn other_paths() {
        for path in ["/", "", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/apis/apps/v1/", "/healthz", "/openapi/v3/api/v1"] {
            assert_eq!(parse(path), Some(Route::Other), "{path}");
        }
    }

    #[test]
    fn names_that_cannot_be() {
        for path in ["/api/v1/namespaces/a%2Fb/pods", "/api/v1/nodes/..", "/api/v1/nodes/%ff", "/api/v1/nodes/%zz", "/api/v1/nodes/a%00"] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics_and_no_name_holds_a_slash(path in "(/(api|apis|v1|namespaces|[a-z%./:0-9é]{0,8})){0,9}") {
            if let Some(Route::Resource(p)) = parse(&path) {
                for name in [&p.group, &p.version, &p.namespace, &p.plural, &p.name, &p.subresource] {
                    prop_assert!(!name.contains('/'));
                }
            }
        }
    }
}
