//! What the embedded store's semaphores leave behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::Bounds;
use super::*;
use crate::clock::Clock;
use crate::store::NoSink;
use crate::store::permit::{NUMBER_KEPT, WhenTaken};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn semaphores_that_are_only_asked_about_or_are_no_longer_used_leave_nothing() {
    let micros = Arc::new(AtomicU64::new(0));
    let clock = Clock::Manual(micros.clone());
    let store = MemoryStore::new(Bounds::default(), clock, Arc::new(NoSink));
    let wait = WhenTaken::No;
    let request = PermitRequest { permits: 1, ttl: SECOND, wait, fenced: false, quarantine: None };
    for number in 0..20_000u64 {
        let name = format!("{}{{s{number}}}", crate::keyspace::SEMAPHORE);
        let token = crate::store::permit::token_of(number << 16, 1);
        assert_eq!(store.permits_in_use(&name).await.unwrap(), 0);
        assert_eq!(store.confirm_permit(&name, token, request).await.unwrap(), Taken::Gone);
        assert!(!store.exchange_permits(&name, token, token + 1, SECOND).await.unwrap());
        let waiting = [LockToken { lock: name.clone(), token }];
        assert_eq!(store.heartbeat_semaphore(&name, &waiting), [QueueStatus::Gone]);
        assert!(!store.give_permit(&name, token, None).await.unwrap());
    }
    assert_eq!(store.semaphores_kept(), 0);
    // A number is kept for 30 days, and is then removed, whatever makes the table grow.
    for number in 0..20_000u64 {
        let name = format!("{}{{s{number}}}", crate::keyspace::SEMAPHORE);
        assert!(store.set_permits(&name, 2, 1).await.unwrap());
        micros.fetch_add(u64::try_from(NUMBER_KEPT.as_micros()).unwrap() / 1000, Ordering::AcqRel);
    }
    assert!(store.semaphores_kept() <= 32 * 256, "{} are kept", store.semaphores_kept());
}
