//! Rate limits, on each store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder::{ErrorKind, Quota};
use support::each_store;

#[tokio::test]
async fn a_limit_admits_just_its_number_and_returns_what_remains() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::per_hour(5)).unwrap();
        assert_eq!(limiter.remaining("a").await.unwrap(), 5);
        for left in (0..5).rev() {
            let decision = limiter.check("a").await.unwrap();
            assert!(decision.is_allowed() && decision.retry_after().is_none(), "{store}");
            assert_eq!((decision.limit(), decision.remaining()), (5, left));
        }
        let refused = limiter.check("a").await.unwrap();
        assert!(!refused.is_allowed() && refused.remaining() == 0, "{store}");
        let wait = refused.retry_after().unwrap();
        assert!(wait > Duration::from_secs(3500) && wait <= Duration::from_secs(3660), "{wait:?}");
        assert!(refused.reset_after() >= wait);
        assert!(!limiter.allow("a").await.unwrap());
        assert!(limiter.allow("b").await.unwrap());
        assert_eq!(limiter.remaining("a").await.unwrap(), 0);
    }
}

#[tokio::test]
async fn after_retry_after_the_next_one_passes() {
    for (store, larder) in each_store().await {
        let limiter = larder.rate_limiter("api", Quota::new(3, Duration::from_millis(300))).unwrap();
        while limiter.allow("a").await.unwrap() {}
        let wait = limiter.check("a").await.unwrap().retry_after().unwrap();
        assert!(wait <= Duration::from_millis(305), "{store}: {wait:?}");
        tokio::time::sleep(wait).await;
        assert!(limiter.allow("a").await.unwrap(), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_window_admits_more_than_the_limit_with_any_callers() {
    for (store, larder) in each_store().await {
        let (limit, window) = (20, Duration::from_millis(200));
        let limiter = larder.rate_limiter("api", Quota::new(limit, window)).unwrap();
        let (started, admitted) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let (limiter, admitted) = (limiter.clone(), admitted.clone());
                tokio::spawn(async move {
                    while started.elapsed() < 4 * window {
                        if limiter.allow("a").await.unwrap() {
                            admitted.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        let windows = started.elapsed().as_nanos().div_ceil(window.as_nanos());
        let most = limit * u64::try_from(windows).unwrap();
        let admitted = admitted.load(Ordering::SeqCst);
        assert!(admitted <= most && admitted >= limit * 3, "{store}: {admitted} of at most {most}");
    }
}

#[tokio::test]
async fn a_changed_quota_counts_on() {
    for (store, larder) in each_store().await {
        let small = larder.rate_limiter("api", Quota::per_hour(3)).unwrap();
        for _ in 0..3 {
            assert!(small.allow("a").await.unwrap());
        }
        let larger = larder.rate_limiter("api", Quota::per_hour(5)).unwrap();
        assert_eq!(larger.remaining("a").await.unwrap(), 2, "{store}");
        let other_window = larder.rate_limiter("api", Quota::per_day(5)).unwrap();
        assert_eq!(other_window.remaining("a").await.unwrap(), 2, "{store}");
        assert!(other_window.allow("a").await.unwrap());
        assert_eq!(other_window.remaining("a").await.unwrap(), 1, "{store}");
    }
}

#[tokio::test]
async fn nonsense_is_refused() {
    for (_, larder) in each_store().await {
        for quota in [Quota::per_second(0), Quota::per_second(u64::MAX), Quota::new(1, Duration::ZERO)] {
            assert_eq!(larder.rate_limiter("api", quota).unwrap_err().kind(), ErrorKind::InvalidSetting);
        }
        let error = larder.rate_limiter("no spaces", Quota::per_second(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSetting);
    }
}
