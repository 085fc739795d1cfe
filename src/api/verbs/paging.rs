//! Continue tokens: where the next page starts, and at which revision it is read (apiserver's `storage.continueToken`).

use crate::meta::Status;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

const VERSION: &str = "meta.k8s.io/v1";
/// In a token: go on at whatever revision is present, though the list becomes inconsistent.
pub const PRESENT: i64 = -1;

const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

/// A place in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// `PRESENT`, or the revision of the first page.
    pub revision: i64,
    /// The first key that may come next, behind the list's prefix.
    pub start: String,
}

impl Token {
    /// The token of a page that ended with `last` (behind the list's prefix).
    pub fn behind(last: &str, revision: i64) -> Self {
        Self { revision, start: format!("{last}\0") }
    }

    pub fn encode(&self) -> String {
        let wire = Wire { v: VERSION.into(), rv: self.revision, start: self.start.clone() };
        let json = serde_json::to_vec(&wire).expect("a struct of strings and numbers has a JSON form");
        URL_SAFE_NO_PAD.encode(json)
    }

    /// # Errors
    /// 400 in kube-apiserver's words.
    pub fn decode(text: &str) -> Result<Self, Status> {
        let refuse = |why: &str| Status::bad_request(format!("continue key is not valid{why}"));
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|e| refuse(&format!(": {e}")))?;
        let wire: Wire = serde_json::from_slice(&json).map_err(|e| refuse(&format!(": {e}")))?;
        if wire.v != VERSION {
            return Err(refuse(&format!(": server does not recognize this encoded version {}", wire.v)));
        }
        if wire.rv == 0 || wire.rv < PRESENT {
            return Err(refuse(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if wire.start.is_empty() {
            return Err(refuse(": encoded start key empty (version meta.k8s.io/v1)"));
        }
        let climbs = wire.start.trim_start_matches('/').split('/').any(|part| part.is_empty() || part == "." || part == "..");
        if climbs {
            return Err(refuse(&format!(": {}", wire.start)));
        }
        Ok(Self { revision: wire.rv, start: wire.start.trim_start_matches('/').to_owned() })
    }

    /// 410 for a token whose revision is compacted, with a token that goes on at the present one.
    pub fn expired(&self) -> Status {
        let next = Self { revision: PRESENT, start: self.start.clone() };
        Status { continue_token: Some(next.encode()), ..Status::expired(INCONSISTENT) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_come_back(name in "[a-z]{1,8}(/[a-z]{1,8})?", revision in 1i64..i64::MAX) {
            let token = Token::behind(&name, revision);
            prop_assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        }

        #[test]
        fn nothing_makes_decoding_panic(text in ".{0,60}") {
            let _ = Token::decode(&text);
        }
    }

    #[test]
    fn bad_tokens_are_refused() {
        let of = |json: &str| Token::decode(&URL_SAFE_NO_PAD.encode(json)).unwrap_err().message;
        assert!(of("{}").starts_with("continue key is not valid"));
        assert!(of(r#"{"v":"x","rv":1,"start":"a"}"#).contains("does not recognize this encoded version x"));
        assert!(of(r#"{"v":"meta.k8s.io/v1","start":"a"}"#).contains("incorrect encoded start resourceVersion"));
        assert!(of(r#"{"v":"meta.k8s.io/v1","rv":1}"#).contains("start key empty"));
        assert!(of(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets/a"}"#).contains("../secrets/a"));
        assert_eq!(
            Token { revision: 5, start: "a\0".into() }.expired().continue_token.map(|t| Token::decode(&t).unwrap().revision),
            Some(PRESENT)
        );
    }
}
