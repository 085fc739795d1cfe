//! Back-off as the kubelet does it: 10 s, doubling to 5 minutes, forgotten after 10 minutes of quiet. Pure.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const LAST: SignedDuration = SignedDuration::from_secs(300);
/// Twice the longest wait, as client-go's `flowcontrol.Backoff` forgets.
const FORGET: SignedDuration = SignedDuration::from_secs(600);

/// One thing's back-off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    entry: Option<(SignedDuration, Timestamp)>,
}

impl BackOff {
    /// Until when what failed at `event` has to wait; None if it may go ahead at `now`.
    pub fn until(&self, event: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let (delay, last) = self.entry?;
        if event.duration_since(last) > FORGET {
            return None;
        }
        Some(event + delay).filter(|until| now < *until)
    }

    /// Counts another attempt after the failure at `event`.
    pub fn advance(&mut self, event: Timestamp, now: Timestamp) {
        let delay = match self.entry {
            Some((delay, last)) if event.duration_since(last) <= FORGET => (delay * 2).min(LAST),
            _ => FIRST,
        };
        self.entry = Some((delay, now));
    }

    /// The present delay, zero if there is none.
    pub fn delay(&self) -> SignedDuration {
        self.entry.map_or(SignedDuration::ZERO, |(delay, _)| delay)
    }

    pub fn reset(&mut self) {
        self.entry = None;
    }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
pub fn go_seconds(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_first_restart_is_immediate_and_then_the_wait_doubles() {
        let mut b = BackOff::default();
        let (mut now, mut waits) = (1000, Vec::new());
        for _ in 0..8 {
            // It fails at once; wait as told, then go on.
            let until = b.until(at(now), at(now)).map_or(now, |t| t.as_second());
            waits.push(until - now);
            now = until;
            b.advance(at(now), at(now));
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(go_seconds(b.delay()), "5m0s");
    }

    #[test]
    fn ten_quiet_minutes_forget_it() {
        let mut b = BackOff::default();
        b.advance(at(0), at(0));
        b.advance(at(10), at(10));
        assert_eq!(b.until(at(20), at(20)), Some(at(40)));
        assert_eq!(b.until(at(20), at(40)), None, "the wait is over");
        assert_eq!(b.until(at(700), at(700)), None, "it ran for more than ten minutes");
        b.advance(at(700), at(700));
        assert_eq!(go_seconds(b.delay()), "10s");
    }

    #[test]
    fn durations_print_as_go_does() {
        for (seconds, text) in [(10, "10s"), (60, "1m0s"), (80, "1m20s"), (300, "5m0s")] {
            assert_eq!(go_seconds(SignedDuration::from_secs(seconds)), text);
        }
    }
}
