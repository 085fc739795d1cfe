//! Times as the API writes them: RFC 3339 in UTC, whole seconds for `Time`, microseconds for `MicroTime`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;

/// `now`, cut to whole seconds: what `metav1.Time` can hold.
pub fn seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// `now`, cut to microseconds: what `metav1.MicroTime` can hold.
pub fn micros(now: Timestamp) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(Timestamp::UNIX_EPOCH))
}
