//! Images as the agent needs them: found here, or pulled by the pod's policy and with the pod's secrets.

use super::events::Recorder;
use super::outcome::StartFailure;
use super::state::Problem;
use crate::client::Client;
use crate::kinds::Secret;
use async_trait::async_trait;
use base64::Engine;
use k8s_openapi::api::core::v1 as api;
use orchd_runtime::image::PullError;
use orchd_runtime::image::{Image, Reference};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;

/// A user and password for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

/// All that the agent knows of an image store.
#[async_trait]
pub trait ImageService: Send + Sync {
    /// The image that a reference means, if it is here.
    fn get(&self, reference: &str) -> Option<Image>;
    fn list(&self) -> Vec<Image>;
    /// Fetches it from its registry, trying each of the credentials and none at all.
    ///
    /// # Errors
    /// What the registry or the network said.
    async fn pull(&self, reference: &str, credentials: &[Credentials]) -> Result<Image, String>;
}

/// Brings images here for containers that are to start.
#[derive(Clone)]
pub struct Puller {
    images: Arc<dyn ImageService>,
    client: Arc<dyn Client>,
    events: Recorder,
}

impl Puller {
    pub fn new(images: Arc<dyn ImageService>, client: Arc<dyn Client>, events: Recorder) -> Self {
        Self { images, client, events }
    }

    pub fn images(&self) -> &Arc<dyn ImageService> {
        &self.images
    }

    /// The image of a container, pulled if its policy says so.
    ///
    /// # Errors
    /// The waiting reason and its message.
    pub async fn ensure(&self, pod: &api::Pod, container: &api::Container) -> Result<Image, StartFailure> {
        let named = container.image.as_deref().unwrap_or_default();
        let tell = |warning, reason, message: String| self.events.pod(pod, Some(&container.name), warning, reason, message);
        let reference = match Reference::parse(named) {
            Ok(reference) => reference,
            Err(why) => {
                let message = format!("Failed to apply default image tag \"{named}\": couldn't parse image name \"{named}\": {why}");
                tell(true, "InspectFailed", message.clone());
                return Err(StartFailure::Image("InvalidImageName", message));
            }
        };
        let here = self.images.get(named);
        match (policy(container, &reference), here) {
            ("Never", None) => {
                let message = format!("Container image \"{named}\" is not present with pull policy of Never");
                tell(true, "ErrImageNeverPull", message.clone());
                Err(StartFailure::Image("ErrImageNeverPull", message))
            }
            ("Never" | "IfNotPresent", Some(image)) => {
                let message = format!("Container image \"{named}\" already present on machine and can be accessed by the pod");
                tell(false, "Pulled", message);
                Ok(image)
            }
            _ => self.pull(pod, named, &reference, tell).await,
        }
    }

    async fn pull(
        &self,
        pod: &api::Pod,
        named: &str,
        reference: &Reference,
        tell: impl Fn(bool, &'static str, String),
    ) -> Result<Image, StartFailure> {
        tell(false, "Pulling", format!("Pulling image \"{named}\""));
        let started = Instant::now();
        let credentials = self.credentials(pod, reference).await;
        match self.images.pull(named, &credentials).await {
            Ok(image) => {
                let took = format!("{:.3}s", started.elapsed().as_secs_f64());
                let size = image.size;
                tell(
                    false,
                    "Pulled",
                    format!("Successfully pulled image \"{named}\" in {took} ({took} including waiting). Image size: {size} bytes."),
                );
                Ok(image)
            }
            Err(why) => {
                tell(true, "Failed", format!("Failed to pull image \"{named}\": {why}"));
                Err(StartFailure::Image(Problem::PULL, why))
            }
        }
    }

    /// Credentials for the reference's registry among the pod's imagePullSecrets. One that is missing is told and passed over.
    async fn credentials(&self, pod: &api::Pod, reference: &Reference) -> Vec<Credentials> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for secret in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
            match self.client.fetch::<Secret>(namespace, &secret.name).await {
                Ok(secret) => found.extend(of_secret(&secret, reference)),
                Err(_) => missing.push(secret.name.as_str()),
            }
        }
        if !missing.is_empty() {
            let names = missing.join(", ");
            let message = format!("Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed.");
            self.events.pod(pod, None, true, "FailedToRetrieveImagePullSecret", message);
        }
        found
    }
}

/// Always for `:latest`, IfNotPresent otherwise; the API fills it in, so this is for pods that came another way.
fn policy<'a>(container: &'a api::Container, reference: &Reference) -> &'a str {
    let latest = reference.digest.is_none() && reference.tag.as_deref() == Some("latest");
    container.image_pull_policy.as_deref().unwrap_or(if latest { "Always" } else { "IfNotPresent" })
}

/// What a `kubernetes.io/dockerconfigjson` or `dockercfg` secret has for the registry; the longest matching path first.
fn of_secret(secret: &api::Secret, reference: &Reference) -> Vec<Credentials> {
    let data = secret.data.as_ref();
    let json = |key: &str| data.and_then(|d| d.get(key)).and_then(|b| serde_json::from_slice::<Value>(&b.0).ok());
    let auths = json(".dockerconfigjson").map(|mut v| v["auths"].take()).or_else(|| json(".dockercfg"));
    let Some(Value::Object(auths)) = auths else { return Vec::new() };
    let mut matching: Vec<(usize, Credentials)> =
        auths.iter().filter(|(key, _)| matches(key, reference)).filter_map(|(key, auth)| Some((key.len(), credentials(auth)?))).collect();
    matching.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    matching.into_iter().map(|(_, c)| c).collect()
}

/// `https://index.docker.io/v1/`, `registry.example:5000`, `registry.example/team`.
fn matches(key: &str, reference: &Reference) -> bool {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://");
    let bare = bare.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    let below = path.is_empty() || reference.repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    host == reference.registry && below
}

fn credentials(auth: &Value) -> Option<Credentials> {
    let text = |key: &str| auth[key].as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Some(Credentials { user, password });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
    let pair = String::from_utf8(decoded).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some(Credentials { user: user.into(), password: password.trim_end_matches('\0').into() })
}

#[async_trait]
impl ImageService for orchd_runtime::image::Images {
    fn get(&self, reference: &str) -> Option<Image> {
        Self::get(self, reference)
    }
    fn list(&self) -> Vec<Image> {
        Self::list(self)
    }
    async fn pull(&self, reference: &str, credentials: &[Credentials]) -> Result<Image, String> {
        let plain = orchd_runtime::image::Reference::parse(reference).is_ok_and(|r| is_loopback(&r.registry));
        let given = credentials.iter().map(|c| Some((c.user.clone(), c.password.clone())));
        let mut outcome = Err(String::new());
        for auth in given.chain([None]) {
            match Self::pull(self, reference, auth, plain).await {
                Ok(image) => return Ok(image),
                // The next one may be let in.
                Err(error @ PullError::Unauthorized { .. }) => outcome = Err(error.to_string()),
                Err(error) => return Err(error.to_string()),
            }
        }
        outcome
    }
}

/// A registry on this machine is spoken to in plain HTTP, as Docker does it.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_give_credentials_for_their_registry_alone() {
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpwOnE="},
            "reg.example:5000": {"username": "wide", "password": "w"},
            "reg.example:5000/team": {"username": "narrow", "password": "n"},
            "broken.example": {"auth": "!"},
        }});
        let data = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let secret: api::Secret = serde_json::from_value(json!({"data": {".dockerconfigjson": data}})).unwrap();
        let users = |image: &str| -> Vec<String> {
            of_secret(&secret, &Reference::parse(image).unwrap()).into_iter().map(|c| format!("{}/{}", c.user, c.password)).collect()
        };
        assert_eq!(users("nginx"), ["u/p:q"]);
        assert_eq!(users("reg.example:5000/team/app"), ["narrow/n", "wide/w"]);
        assert_eq!(users("reg.example:5000/teams/app"), ["wide/w"]);
        assert_eq!(users("reg.example/team/app"), Vec::<String>::new());
        assert_eq!(users("broken.example/x"), Vec::<String>::new());
    }

    #[test]
    fn the_policy_has_a_default() {
        let container = |policy: Option<&str>| api::Container { image_pull_policy: policy.map(str::to_owned), ..Default::default() };
        for (image, set, want) in [("a", None, "Always"), ("a:1", None, "IfNotPresent"), ("a", Some("Never"), "Never")] {
            assert_eq!(policy(&container(set), &Reference::parse(image).unwrap()), want);
        }
    }
}
