//! How long to wait for an acknowledgement (RFC 6298).

use std::time::{Duration, Instant};

use super::seq::Seq;

const INITIAL: Duration = Duration::from_secs(1);
const LEAST: Duration = Duration::from_millis(200);
const MOST: Duration = Duration::from_secs(8);

/// The retransmission timeout of one connection.
#[derive(Debug, Default)]
pub(crate) struct Rtt {
    /// Smoothed time and its variation.
    smooth: Option<(Duration, Duration)>,
    /// How often the timeout has been doubled.
    backoff: u32,
    /// What is being timed, and since when.
    timed: Option<(Seq, Instant)>,
}

impl Rtt {
    /// The timeout now.
    pub(crate) fn timeout(&self) -> Duration {
        let base = self.smooth.map_or(INITIAL, |(smooth, variation)| smooth + 4 * variation);
        (base.max(LEAST) * 2_u32.pow(self.backoff.min(6))).min(MOST)
    }

    /// Something that ends at `end` was sent for the first time.
    pub(crate) fn sent(&mut self, end: Seq, now: Instant) {
        self.timed.get_or_insert((end, now));
    }

    /// Something was sent again: whatever is acknowledged now says nothing
    /// about the time (Karn's algorithm).
    pub(crate) fn sent_again(&mut self) {
        self.timed = None;
    }

    /// Nothing came in time.
    pub(crate) fn expired(&mut self) {
        self.timed = None;
        self.backoff = self.backoff.saturating_add(1);
    }

    /// Everything before `ack` has arrived.
    pub(crate) fn acknowledged(&mut self, ack: Seq, now: Instant) {
        self.backoff = 0;
        let Some((end, since)) = self.timed else { return };
        if ack >= end {
            self.timed = None;
            self.sample(now.saturating_duration_since(since));
        }
    }

    fn sample(&mut self, time: Duration) {
        self.smooth = Some(match self.smooth {
            None => (time, time / 2),
            Some((smooth, variation)) => {
                ((smooth * 7 + time) / 8, (variation * 3 + smooth.abs_diff(time)) / 4)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_what_is_measured() {
        let (mut rtt, start) = (Rtt::default(), Instant::now());
        assert_eq!(rtt.timeout(), INITIAL);
        rtt.sent(Seq(10), start);
        rtt.acknowledged(Seq(10), start + Duration::from_millis(500));
        assert_eq!(rtt.timeout(), Duration::from_millis(1500));
        for _ in 0..3 {
            rtt.expired();
        }
        assert_eq!(rtt.timeout(), MOST);
        rtt.acknowledged(Seq(11), start);
        assert_eq!(rtt.timeout(), Duration::from_millis(1500));
    }

    #[test]
    fn what_was_sent_twice_is_not_measured() {
        let (mut rtt, start) = (Rtt::default(), Instant::now());
        rtt.sent(Seq(10), start);
        rtt.sent_again();
        rtt.acknowledged(Seq(10), start + Duration::from_secs(5));
        assert_eq!(rtt.timeout(), INITIAL);
    }
}
