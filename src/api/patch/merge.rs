//! JSON merge patch (RFC 7386): null deletes, objects merge, everything else replaces.

use super::PatchError;
use serde_json::Value;

/// Applies the patch in `body` to `document`.
///
/// # Errors
/// The body is no JSON object.
pub fn apply(document: &Value, body: &[u8]) -> Result<Value, PatchError> {
    let patch: Value = serde_json::from_slice(body).map_err(|e| PatchError::Malformed(format!("error decoding patch: {e}")))?;
    if !patch.is_object() {
        return Err(PatchError::Malformed("Invalid JSON Patch".into()));
    }
    let mut out = document.clone();
    json_patch::merge(&mut out, &patch);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The cases of RFC 7386, appendix A, whose patch is an object.
    #[test]
    fn the_rfc_examples_hold() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (document, patch, want) in cases {
            assert_eq!(apply(&document, patch.to_string().as_bytes()).unwrap(), want, "{document} + {patch}");
        }
        assert!(apply(&json!({}), b"[]").is_err());
    }
}
