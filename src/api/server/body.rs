//! Request bodies: read within their bound, and turned into JSON whatever they came as.
//!
//! May import: meta, api::negotiate, api::protobuf.

use super::yaml;
use crate::api::negotiate::{MEDIA_TYPES, unsupported_media_type};
use crate::api::protobuf;
use crate::meta::{GroupVersionKind, Reason, Status};
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

/// The most bytes that a body may have (kube-apiserver's limit).
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// How much of a body that is too large is read, and forgotten, before the connection is given up.
const MAX_DRAINED_BYTES: usize = 8 * 1024 * 1024;

/// Reads a whole body.
///
/// # Errors
/// 413 beyond the limit; 400 if the client breaks off.
pub async fn read(body: Body) -> Result<Bytes, Status> {
    let (mut body, mut whole, mut length) = (body, BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("the body could not be read: {error}")))?;
        let data = frame.into_data().unwrap_or_default();
        length += data.len();
        // A client of HTTP/1.1 reads the answer once it has sent its body, if it is let: some of what is too much is read on.
        if length > MAX_DRAINED_BYTES {
            break;
        }
        if length <= MAX_BODY_BYTES {
            whole.extend_from_slice(&data);
        }
    }
    if length > MAX_BODY_BYTES {
        let text = format!("Request entity too large: limit is {MAX_BODY_BYTES}");
        return Err(Status::new(Reason::RequestEntityTooLarge, text));
    }
    Ok(whole.freeze())
}

/// The body as JSON. `default` is the kind that a protobuf body which names none is of.
///
/// # Errors
/// 415 for a type that is none of ours; 400 for a body that is not what it says.
pub fn to_json(content_type: &str, body: Bytes, default: Option<&GroupVersionKind>) -> Result<Bytes, Status> {
    match content_type.split(';').next().unwrap_or_default().trim() {
        // Clients that say nothing, and those that say what curl says, mean JSON.
        "" | "application/json" => utf8(body),
        "application/yaml" => yaml_to_json(&body),
        protobuf::CONTENT_TYPE => Ok(protobuf::to_json(&body, default)?.into()),
        _ => Err(unsupported_media_type(MEDIA_TYPES)),
    }
}

/// # Errors
/// 400 for what is no YAML, or stands for more than it may.
pub fn yaml_to_json(body: &[u8]) -> Result<Bytes, Status> {
    if body.is_empty() {
        return Ok(Bytes::new());
    }
    let json = yaml::to_json(body, MAX_BODY_BYTES).map_err(|e| Status::bad_request(format!("error converting YAML to JSON: yaml: {e}")))?;
    Ok(json.into())
}

/// # Errors
/// 400 for broken UTF-8.
pub fn utf8(body: Bytes) -> Result<Bytes, Status> {
    match std::str::from_utf8(&body) {
        Ok(_) => Ok(body),
        Err(error) => Err(Status::bad_request(format!("the body is not UTF-8: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_bodies() {
        let json = |content_type: &str, body: &'static [u8]| to_json(content_type, Bytes::from_static(body), None);
        assert_eq!(json("application/json; charset=utf-8", b"{}").unwrap(), "{}");
        assert_eq!(json("", b"{}").unwrap(), "{}");
        assert_eq!(json("application/yaml", b"a: b").unwrap(), r#"{"a":"b"}"#);
        assert_eq!(json("application/json", b"\"\xff\"").unwrap_err().code, 400);
        assert_eq!(json("application/yaml", b"\xff\xfe\xff").unwrap_err().code, 400);
        assert_eq!(json("application/vnd.kubernetes.protobuf", b"{}").unwrap_err().code, 400);
        let unsupported = json("text/plain", b"{}").unwrap_err();
        assert_eq!(unsupported.code, 415);
        assert!(
            unsupported
                .message
                .ends_with("accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf")
        );
    }

    #[tokio::test]
    async fn a_body_ends_at_its_limit() {
        assert_eq!(read(Body::from(vec![b' '; MAX_BODY_BYTES])).await.unwrap().len(), MAX_BODY_BYTES);
        let status = read(Body::from(vec![b' '; MAX_BODY_BYTES + 1])).await.unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (413, "Request entity too large: limit is 3145728"));
    }
}
