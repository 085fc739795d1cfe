//! Waiting for a state of the cluster: a list, then its watch, and a question asked after each change. Never a poll.

use super::CliError;
use crate::client::{Client, ListOptions, Target, WatchEvent};
use crate::kinds::{Object, ObjectKey, Ref, Registered};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The objects of one kind in one namespace.
pub type Objects<K> = BTreeMap<ObjectKey, Ref<K>>;

/// What a question about the present objects says.
pub enum Answer<T> {
    /// That is it.
    Yes(T),
    /// Not yet: what a person is shown meanwhile.
    NotYet(String),
}

/// Waits until `ask` is content with the objects; `tell` hears of progress.
///
/// # Errors
/// It did not happen within `limit`: the last progress says how far it came.
pub async fn wait<K: Registered, T>(
    client: &dyn Client,
    namespace: Option<&str>,
    limit: Duration,
    what: &str,
    mut tell: impl FnMut(String),
    mut ask: impl FnMut(&Objects<K>) -> Answer<T>,
) -> Result<T, CliError> {
    let mut last = "nothing yet".to_owned();
    let waiting = async {
        loop {
            let target = Target::collection::<K>(namespace);
            let listed = client.list(&target, &ListOptions::default()).await.map_err(|e| CliError::new(what, e))?;
            let mut objects: Objects<K> = listed.items.into_iter().filter_map(|o| Some((o.key(), Ref::new(o)?))).collect();
            let options = ListOptions { resource_version: Some(listed.revision.to_string()), ..ListOptions::default() };
            let mut events = client.watch(&target, &options).await.map_err(|e| CliError::new(what, e))?;
            loop {
                match ask(&objects) {
                    Answer::Yes(found) => return Ok(found),
                    Answer::NotYet(text) => {
                        last.clone_from(&text);
                        tell(text);
                    }
                }
                // A watch that ends is begun anew.
                let Some(Ok(event)) = events.recv().await else { break };
                apply(&mut objects, event);
            }
        }
    };
    match timeout(limit, waiting).await {
        Ok(done) => done,
        Err(_) => Err(CliError::text(format!("{what} did not happen within {} s; at the end: {last}", limit.as_secs()))),
    }
}

fn apply<K: Registered>(objects: &mut Objects<K>, event: WatchEvent) {
    let mut put = |object: Arc<Object>| {
        if let Some(typed) = Ref::new(object.clone()) {
            objects.insert(object.key(), typed);
        }
    };
    match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => put(object),
        WatchEvent::Deleted(object) => drop(objects.remove(&object.key())),
        WatchEvent::Bookmark(_) => {}
    }
}
