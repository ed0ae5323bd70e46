//! How much a caller may ask: a token bucket and a bound on requests under way, per user.

use super::AppError;
use crate::config::Config;
use csb_api::ErrorCode;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock, clock::DefaultClock};
use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Limits of all users.
#[derive(Debug)]
pub struct Limiter {
    bucket: Option<DefaultKeyedRateLimiter<Arc<str>>>,
    clock: DefaultClock,
    most: u32,
    under_way: Arc<Mutex<HashMap<Arc<str>, u32>>>,
}

/// A request under way.
#[derive(Debug)]
pub struct Slot {
    user_id: Arc<str>,
    under_way: Arc<Mutex<HashMap<Arc<str>, u32>>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut map = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = map.get_mut(&self.user_id) {
            *count -= 1;
            if *count == 0 {
                map.remove(&self.user_id);
            }
        }
    }
}

impl Limiter {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        let bucket = NonZeroU32::new(config.rate_per_second).map(|rate| {
            let burst = NonZeroU32::new(config.rate_burst).unwrap_or(rate);
            RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst))
        });
        Self { bucket, clock: DefaultClock::default(), most: config.user_requests, under_way: Arc::default() }
    }

    /// Takes a token of `key`'s bucket.
    pub fn admit(&self, key: &Arc<str>) -> Result<(), AppError> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        bucket.check_key(key).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            too_many("too many requests", wait)
        })
    }

    /// A place for one request of `user_id`, held until its answer is sent.
    pub fn slot(&self, user_id: &Arc<str>) -> Result<Slot, AppError> {
        let mut map = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let count = map.entry(user_id.clone()).or_default();
        if *count >= self.most {
            let message = format!("{count} requests are under way, as many as allowed");
            return Err(too_many(&message, Duration::from_secs(1)));
        }
        *count += 1;
        drop(map);
        Ok(Slot { user_id: user_id.clone(), under_way: self.under_way.clone() })
    }

    /// Forgets buckets that are full again.
    pub fn tidy(&self) {
        if let Some(bucket) = &self.bucket {
            bucket.retain_recent();
            bucket.shrink_to_fit();
        }
    }
}

fn too_many(message: &str, wait: Duration) -> AppError {
    AppError { retry_after: Some(wait), ..AppError::new(ErrorCode::RateLimited, message) }
}
