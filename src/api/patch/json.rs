//! JSON patch (RFC 6902).

use super::{MAX_JSON_PATCH_OPERATIONS, PatchError};
use serde_json::Value;

/// Applies the patch in `body` to `document`. `remove` of what is not there fails, as does a failed `test`.
///
/// # Errors
/// The body is no list of operations, there are too many, or one of them cannot be carried out.
pub fn apply(document: &Value, body: &[u8]) -> Result<Value, PatchError> {
    let operations: Value = serde_json::from_slice(body).map_err(|e| PatchError::Malformed(e.to_string()))?;
    let count = operations.as_array().map_or(0, Vec::len);
    if count > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooLarge(count));
    }
    let patch: json_patch::Patch = serde_json::from_value(operations).map_err(|e| PatchError::Malformed(e.to_string()))?;
    let mut out = document.clone();
    json_patch::patch(&mut out, &patch).map_err(|e| PatchError::Unprocessable(e.to_string()))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_apply_in_order() {
        let out = apply(
            &json!({"a": [1], "b": {"c": 1}}),
            br#"[{"op":"add","path":"/a/-","value":2},{"op":"remove","path":"/b/c"},
            {"op":"test","path":"/a/1","value":2},{"op":"copy","from":"/a","path":"/d"}]"#,
        );
        assert_eq!(out.unwrap(), json!({"a": [1, 2], "b": {}, "d": [1, 2]}));
    }

    #[test]
    fn errors_say_who_is_to_blame() {
        assert!(matches!(apply(&json!({}), b"{"), Err(PatchError::Malformed(_))));
        assert!(matches!(apply(&json!({}), b"{}"), Err(PatchError::Malformed(_))));
        assert!(matches!(apply(&json!({}), br#"[{"op":"test","path":"/a","value":1}]"#), Err(PatchError::Unprocessable(_))));
        assert!(matches!(apply(&json!({}), br#"[{"op":"remove","path":"/a"}]"#), Err(PatchError::Unprocessable(_))));
        let many = format!("[{}]", vec![r#"{"op":"test","path":"","value":{}}"#; 10_001].join(","));
        assert_eq!(apply(&json!({}), many.as_bytes()), Err(PatchError::TooLarge(10_001)));
    }
}
