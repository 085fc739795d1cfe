//! What a client accepts: JSON or YAML, the object itself, a Table of it or its metadata alone.
//!
//! May import: meta. Pure. Protobuf is taken in bodies but never answered: every client that prefers it also reads JSON,
//! so an Accept header that names it alone is answered with JSON.

use crate::meta::{Reason, Status};

/// What answers and bodies may be, as errors list them.
pub const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Media {
    #[default]
    Json,
    Yaml,
}

impl Media {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// Which form of the object is asked for; the text is the version of `meta.k8s.io`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    #[default]
    Object,
    Table(&'static str),
    PartialMetadata(&'static str),
    PartialMetadataList(&'static str),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub media: Media,
    pub view: View,
}

/// One alternative of an Accept header.
struct Clause<'a> {
    media: &'a str,
    quality: f32,
    params: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let params: Vec<_> = parts.filter_map(|p| p.split_once('=')).map(|(k, v)| (k.trim(), v.trim().trim_matches('"'))).collect();
        let quality = params.iter().find(|(k, _)| *k == "q").and_then(|(_, v)| v.parse().ok()).unwrap_or(1.0);
        Self { media, quality, params }
    }

    fn param(&self, key: &str) -> Option<&'a str> {
        self.params.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }

    /// The view that the clause asks for; None if it is one that is not served.
    fn view(&self, transforms: bool) -> Option<View> {
        let Some(what) = self.param("as") else { return Some(View::Object) };
        let version = match self.param("v") {
            Some("v1") => "v1",
            Some("v1beta1") => "v1beta1",
            _ => return None,
        };
        if !transforms || self.param("g") != Some("meta.k8s.io") {
            return None;
        }
        match what {
            "Table" => Some(View::Table(version)),
            "PartialObjectMetadata" => Some(View::PartialMetadata(version)),
            "PartialObjectMetadataList" => Some(View::PartialMetadataList(version)),
            _ => None,
        }
    }
}

/// Chooses among the alternatives of `accept`, best quality first, then in order. `transforms` says whether the resource
/// can be shown as a Table or by its metadata.
///
/// # Errors
/// 406: none of them can be served.
pub fn negotiate(accept: &str, transforms: bool) -> Result<Accepted, Status> {
    let mut clauses: Vec<Clause<'_>> = accept.split(',').map(Clause::parse).filter(|c| !c.media.is_empty() && c.quality > 0.0).collect();
    if clauses.is_empty() {
        return Ok(Accepted::default());
    }
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    let serve = |c: &Clause<'_>, protobuf: bool| {
        let media = match c.media {
            "application/json" | "application/*" | "*/*" => Media::Json,
            "application/yaml" => Media::Yaml,
            "application/vnd.kubernetes.protobuf" if protobuf => Media::Json,
            _ => return None,
        };
        Some(Accepted { media, view: c.view(transforms)? })
    };
    let best = clauses.iter().find_map(|c| serve(c, false)).or_else(|| clauses.iter().find_map(|c| serve(c, true)));
    best.ok_or_else(not_acceptable)
}

pub fn not_acceptable() -> Status {
    Status::new(Reason::NotAcceptable, format!("only the following media types are accepted: {MEDIA_TYPES}"))
}

/// 415 for a body whose type is none of `accepted`.
pub fn unsupported_media_type(accepted: &str) -> Status {
    let text = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    Status::new(Reason::UnsupportedMediaType, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_clients_send_is_understood() {
        let json = |view| Some(Accepted { media: Media::Json, view });
        for (accept, transforms, want) in [
            ("", true, json(View::Object)),
            ("*/*", true, json(View::Object)),
            ("application/json", true, json(View::Object)),
            ("application/vnd.kubernetes.protobuf,application/json", true, json(View::Object)),
            ("application/vnd.kubernetes.protobuf", true, json(View::Object)),
            ("application/json;stream=watch", true, json(View::Object)),
            ("application/yaml", true, Some(Accepted { media: Media::Yaml, view: View::Object })),
            ("application/yaml;q=0.5, application/json", true, json(View::Object)),
            ("application/json;q=0, application/yaml", true, Some(Accepted { media: Media::Yaml, view: View::Object })),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                true,
                json(View::Table("v1")),
            ),
            ("application/json;as=Table;v=v1;g=meta.k8s.io", false, None),
            ("application/json;as=Table;v=v1;g=meta.k8s.io, application/json", false, json(View::Object)),
            ("application/json;as=Table;v=v1alpha1;g=meta.k8s.io", true, None),
            ("application/json;as=Cake;v=v1;g=meta.k8s.io", true, None),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
                true,
                json(View::PartialMetadataList("v1")),
            ),
            ("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", true, json(View::PartialMetadata("v1"))),
            ("text/html", true, None),
            ("text/html, */*;q=0.8", true, json(View::Object)),
        ] {
            assert_eq!(negotiate(accept, transforms).ok(), want, "{accept}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(text in "[a-z/*;=, \"q.0-9]{0,80}") {
            let _ = negotiate(&text, true);
        }
    }
}
