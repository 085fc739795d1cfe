//! Service account tokens for projected volumes: asked of the API, renewed at 80 % of their life or after a day.

use super::payload::TokenAsk;
use crate::client::{Client, Target};
use crate::kinds::ServiceAccount;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::collections::BTreeMap;

const DAY: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone, Debug)]
struct Token {
    text: String,
    renew_at: Timestamp,
}

/// A pod's tokens.
#[derive(Clone, Debug, Default)]
pub struct Tokens(BTreeMap<TokenAsk, Token>);

impl Tokens {
    /// Brings every token up to date; an old one is kept if it cannot be renewed. None means that nothing changed.
    ///
    /// # Errors
    /// A first token cannot be had.
    pub async fn renew(&mut self, client: &dyn Client, pod: &api::Pod, asks: &[TokenAsk], now: Timestamp) -> Result<(), String> {
        for ask in asks {
            if self.0.get(ask).is_some_and(|t| now < t.renew_at) {
                continue;
            }
            match request(client, pod, ask, now).await {
                Ok(token) => drop(self.0.insert(ask.clone(), token)),
                Err(why) => match self.0.get_mut(ask) {
                    None => return Err(format!("failed to fetch token: {why}")),
                    Some(token) => {
                        tracing::warn!(pod = pod.metadata.name, error = why, "a service account token could not be renewed");
                        token.renew_at = now + SignedDuration::from_secs(10);
                    }
                },
            }
        }
        Ok(())
    }

    /// When the next one is to be renewed.
    pub fn next_renewal(&self) -> Option<Timestamp> {
        self.0.values().map(|t| t.renew_at).min()
    }

    pub fn texts(&self) -> BTreeMap<TokenAsk, String> {
        self.0.iter().map(|(ask, token)| (ask.clone(), token.text.clone())).collect()
    }
}

/// At 80 % of its life, after a day at the latest, and a little spread so that a node's tokens do not all come at once.
fn renewal(now: Timestamp, expires: Timestamp, spread: f64) -> Timestamp {
    let life = expires.duration_since(now);
    let spread = SignedDuration::from_secs_f64(10.0 * spread).min(life / 20);
    now + (life * 4 / 5 - spread).min(DAY).max(SignedDuration::from_secs(1))
}

async fn request(client: &dyn Client, pod: &api::Pod, ask: &TokenAsk, now: Timestamp) -> Result<Token, String> {
    let meta = &pod.metadata;
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into());
    let target = Target::object::<ServiceAccount>(meta.namespace.as_deref().unwrap_or_default(), &account).sub("token");
    let audiences: Vec<&str> = Some(ask.audience.as_str()).filter(|a| !a.is_empty()).into_iter().collect();
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": ask.seconds,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": meta.name, "uid": meta.uid},
        },
    });
    let answer = client.post(&target, body).await.map_err(|s| s.message)?;
    let status = &answer["status"];
    let text = status["token"].as_str().ok_or("the answer holds no token")?.to_owned();
    let expires = status["expirationTimestamp"].as_str().and_then(|t| t.parse().ok());
    let expires = expires.unwrap_or_else(|| now + SignedDuration::from_secs(ask.seconds));
    Ok(Token { text, renew_at: renewal(now, expires, rand::random()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_in_time() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |life: i64| renewal(now, now + SignedDuration::from_secs(life), 0.0).duration_since(now).as_secs();
        assert_eq!((at(600), at(3600), at(7 * 86_400)), (480, 2880, 86_400));
        assert!(renewal(now, now + SignedDuration::from_secs(600), 1.0).duration_since(now).as_secs() >= 450);
    }
}
