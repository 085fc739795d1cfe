//! Whether this master is in touch with a majority of the masters. One that is not has nothing new to tell: its watches
//! end, and their clients go on at another master, instead of waiting for events that cannot come.
//!
//! May import: meta.

use crate::meta::{Reason, Status};
use std::sync::{Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// Told by whoever asks the store; read by every watch.
pub struct Contact {
    stop: CancellationToken,
    /// Cancelled while contact is lost, and once the server stops.
    present: Mutex<CancellationToken>,
}

impl Contact {
    /// In touch, until told otherwise. `stop` is the server's.
    pub fn new(stop: &CancellationToken) -> Self {
        Self { stop: stop.clone(), present: Mutex::new(stop.child_token()) }
    }

    /// Notes what was found out; ends every watch if contact is lost.
    pub fn set(&self, in_touch: bool) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        match (in_touch, present.is_cancelled()) {
            (false, false) => {
                tracing::warn!("this master has lost the others: watches end here");
                present.cancel();
            }
            (true, true) if !self.stop.is_cancelled() => {
                tracing::info!("this master is in touch with the others again");
                *present = self.stop.child_token();
            }
            _ => {}
        }
    }

    /// Why a client should go elsewhere; None if it need not.
    pub fn lost(&self) -> Option<String> {
        let lost = self.present.lock().unwrap_or_else(PoisonError::into_inner).is_cancelled();
        lost.then(|| "this master is not in touch with the others".to_owned())
    }

    /// Cancelled once a watch that begins now should end.
    ///
    /// # Errors
    /// 503 while contact is lost.
    pub fn token(&self) -> Result<CancellationToken, Status> {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if present.is_cancelled() {
            return Err(Status::new(Reason::ServiceUnavailable, "this master is not in touch with the others"));
        }
        Ok(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_end_with_contact_and_begin_again_with_it() {
        let stop = CancellationToken::new();
        let contact = Contact::new(&stop);
        let watch = contact.token().unwrap();
        contact.set(true);
        assert!(!watch.is_cancelled() && contact.lost().is_none());
        contact.set(false);
        assert!(watch.is_cancelled() && contact.lost().is_some());
        assert_eq!(contact.token().unwrap_err().code, 503);
        contact.set(true);
        let again = contact.token().unwrap();
        assert!(watch.is_cancelled() && !again.is_cancelled());
        stop.cancel();
        contact.set(true);
        assert!(again.is_cancelled() && contact.token().is_err());
    }
}
