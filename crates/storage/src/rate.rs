//! Rate limits: how many requests, and how many bytes, a disk serves in a
//! second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much a disk may do in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests.
    pub operations: Option<u64>,
    /// Bytes.
    pub bytes: Option<u64>,
}

/// A bucket that holds what one second allows, and may be overdrawn by one
/// request.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    level: f64,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        let rate = rate.max(1) as f64;
        Self { rate, level: rate }
    }

    fn refill(&mut self, passed: Duration) {
        self.level = (self.level + self.rate * passed.as_secs_f64()).min(self.rate);
    }

    /// Takes `amount`; how long to wait for it.
    fn take(&mut self, amount: f64) -> Duration {
        self.level -= amount;
        if self.level >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.level / self.rate).unwrap_or(Duration::MAX)
    }
}

#[derive(Debug)]
struct Buckets {
    operations: Option<Bucket>,
    bytes: Option<Bucket>,
    at: Instant,
}

/// Keeps to a [`RateLimit`].
#[derive(Debug)]
pub struct RateLimiter(Mutex<Buckets>);

impl RateLimiter {
    /// A limiter with full buckets.
    pub fn new(limit: RateLimit) -> Self {
        Self(Mutex::new(Buckets {
            operations: limit.operations.map(Bucket::new),
            bytes: limit.bytes.map(Bucket::new),
            at: Instant::now(),
        }))
    }

    /// A request of `bytes` comes at `now`: how long it has to wait.
    pub fn request(&self, bytes: u64, now: Instant) -> Duration {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(buckets.at);
        buckets.at = now.max(buckets.at);
        let wait = |bucket: Option<&mut Bucket>, amount| {
            bucket.map_or(Duration::ZERO, |bucket| {
                bucket.refill(passed);
                bucket.take(amount)
            })
        };
        let Buckets { operations, bytes: limit, .. } = &mut *buckets;
        wait(operations.as_mut(), 1.0).max(wait(limit.as_mut(), bytes as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_allows_its_share_and_the_rest_waits() {
        let limiter = RateLimiter::new(RateLimit { operations: Some(10), bytes: Some(1000) });
        let start = Instant::now();
        for _ in 0..10 {
            assert_eq!(limiter.request(50, start), Duration::ZERO);
        }
        assert_eq!(limiter.request(50, start), Duration::from_millis(100));
        let later = start + Duration::from_secs(10);
        assert_eq!(limiter.request(3000, later), Duration::from_secs(2));
        assert_eq!(limiter.request(0, later), Duration::from_secs(2));
    }

    #[test]
    fn without_limits_nothing_waits() {
        let limiter = RateLimiter::new(RateLimit::default());
        assert_eq!(limiter.request(u64::MAX, Instant::now()), Duration::ZERO);
    }
}
