//! All checkers over one history.

use crate::history::History;
use crate::model::linearizable;
use crate::timeline::Timeline;
use crate::wgl::Bounds;
use crate::{replay, watches};
use orchd_store::KeyRange;

/// Keys below this may be taken away by leases.
pub const LEASED: &str = "leased/";

/// # Errors
/// The first checker's complaint.
pub fn judge(history: &History) -> Result<(), String> {
    let timeline = Timeline::of(history)?;
    let opened = replay::check(history, &timeline)?;
    watches::all_hold(&history.watches, &timeline)?;
    linearizable(history, &KeyRange::prefix(LEASED), Some(&opened), Bounds::default())
}
