//! The id of a request, the same in the gate's log, in the upstream's and in the answer.
//!
//! Made by `service`; a client's own id is never taken over, since it could repeat another's.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;

/// Names one request in the logs of the gate and of the upstream.
pub(super) struct RequestId {
    pub(super) text: String,
    pub(super) value: HeaderValue,
}

impl RequestId {
    /// Unique in this process, and not to be guessed from another one.
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let text = format!(
            "{:016x}",
            KEY.hash_one(NEXT.fetch_add(1, Ordering::Relaxed))
        );
        let value = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("-"));
        Self { text, value }
    }
}
