//! Service account tokens: JWTs signed with ES256 (RFC 7515, 7519), with the claims that Kubernetes binds to a pod.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use thiserror::Error;

/// Who signs: the `iss` claim, and the default audience.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

#[derive(Debug, Error)]
pub enum TokenError {
    #[error("the service account key is damaged")]
    Key,
    #[error("the token is malformed")]
    Malformed,
    #[error("the token's signature does not verify")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is for another audience")]
    Audience,
    #[error("cannot sign")]
    Sign,
}

/// An object that a token is bound to: name and uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub name: String,
    pub uid: String,
}

/// What a service account token says. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub namespace: String,
    pub service_account: Bound,
    pub pod: Option<Bound>,
    pub node: Option<Bound>,
    pub audiences: Vec<String>,
    pub issued_at_s: i64,
    pub expires_at_s: i64,
    /// The `jti` claim.
    pub id: String,
}

/// Signs and verifies service account tokens.
pub struct Tokens {
    key: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
}

impl Tokens {
    /// # Errors
    /// `key_pem` is no P-256 key in PKCS#8.
    pub fn new(key_pem: &str) -> Result<Self, TokenError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| TokenError::Key)?;
        let random = SystemRandom::new();
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random).map_err(|_| TokenError::Key)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key().as_ref());
        Ok(Self { key_id: URL_SAFE_NO_PAD.encode(digest), key, random })
    }

    /// The compact JWT of `claims`.
    ///
    /// # Errors
    /// The signature could not be made.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let payload = claims_to_json(claims);
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload.to_string()));
        let signature = self.key.sign(&self.random, text.as_bytes()).map_err(|_| TokenError::Sign)?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that we signed, that has not expired at `now_s`, and (if any is named) is for `audience`.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub fn verify(&self, token: &str, audience: Option<&str>, now_s: i64) -> Result<Claims, TokenError> {
        let (text, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (_, payload) = text.split_once('.').ok_or(TokenError::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(text.as_bytes(), &signature)
            .map_err(|_| TokenError::Signature)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Malformed)?;
        let claims = claims_from_json(&serde_json::from_slice(&payload).map_err(|_| TokenError::Malformed)?)?;
        if now_s >= claims.expires_at_s {
            return Err(TokenError::Expired);
        }
        if audience.is_some_and(|a| !claims.audiences.iter().any(|own| own == a)) {
            return Err(TokenError::Audience);
        }
        Ok(claims)
    }

    /// The JSON Web Key Set that `/openid/v1/jwks` serves (RFC 7517).
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 0x04, then x and y of 32 bytes each.
        let point = self.key.public_key().as_ref();
        let coordinate = |range: std::ops::Range<usize>| point.get(range).map(|b| URL_SAFE_NO_PAD.encode(b));
        json!({"keys": [{"use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.key_id,
            "x": coordinate(1..33), "y": coordinate(33..65)}]})
    }
}

fn claims_to_json(c: &Claims) -> Value {
    let bound = |b: &Bound| json!({"name": b.name, "uid": b.uid});
    let mut own = json!({"namespace": c.namespace, "serviceaccount": bound(&c.service_account)});
    if let Some(pod) = &c.pod {
        own["pod"] = bound(pod);
    }
    if let Some(node) = &c.node {
        own["node"] = bound(node);
    }
    json!({"iss": ISSUER, "sub": format!("system:serviceaccount:{}:{}", c.namespace, c.service_account.name), "aud": c.audiences,
        "iat": c.issued_at_s, "nbf": c.issued_at_s, "exp": c.expires_at_s, "jti": c.id, "kubernetes.io": own})
}

fn claims_from_json(v: &Value) -> Result<Claims, TokenError> {
    let text = |v: &Value| v.as_str().map(str::to_owned).ok_or(TokenError::Malformed);
    let bound = |v: &Value| -> Result<Bound, TokenError> { Ok(Bound { name: text(&v["name"])?, uid: text(&v["uid"])? }) };
    let optional = |v: &Value| if v.is_null() { Ok(None) } else { bound(v).map(Some) };
    if v["iss"] != ISSUER {
        return Err(TokenError::Malformed);
    }
    let own = &v["kubernetes.io"];
    Ok(Claims {
        namespace: text(&own["namespace"])?,
        service_account: bound(&own["serviceaccount"])?,
        pod: optional(&own["pod"])?,
        node: optional(&own["node"])?,
        audiences: v["aud"].as_array().ok_or(TokenError::Malformed)?.iter().map(text).collect::<Result<_, _>>()?,
        issued_at_s: v["iat"].as_i64().ok_or(TokenError::Malformed)?,
        expires_at_s: v["exp"].as_i64().ok_or(TokenError::Malformed)?,
        id: text(&v["jti"])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens::new(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            namespace: "ns".into(),
            service_account: Bound { name: "default".into(), uid: "u1".into() },
            pod: Some(Bound { name: "p".into(), uid: "u2".into() }),
            node: None,
            audiences: vec![ISSUER.into()],
            issued_at_s: 100,
            expires_at_s: 200,
            id: "j".into(),
        }
    }

    #[test]
    fn a_signed_token_comes_back_whole() {
        let t = tokens();
        assert_eq!(t.verify(&t.sign(&claims()).unwrap(), Some(ISSUER), 199).unwrap(), claims());
    }

    #[test]
    fn expiry_audience_and_foreign_keys_are_refused() {
        let t = tokens();
        let token = t.sign(&claims()).unwrap();
        assert!(matches!(t.verify(&token, None, 200), Err(TokenError::Expired)));
        assert!(matches!(t.verify(&token, Some("other"), 150), Err(TokenError::Audience)));
        assert!(matches!(tokens().verify(&token, None, 150), Err(TokenError::Signature)));
    }

    #[test]
    fn every_flipped_character_breaks_the_token() {
        let t = tokens();
        let token = t.sign(&claims()).unwrap();
        for i in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[i] = if bytes[i] == b'A' { b'Q' } else { b'A' };
            // The last character carries only four bits that count, so some of its neighbours decode alike.
            if i + 1 == token.len() || bytes == token.as_bytes() {
                continue;
            }
            assert!(t.verify(&String::from_utf8(bytes).unwrap(), None, 150).is_err(), "position {i}");
        }
    }
}
