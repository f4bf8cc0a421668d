#![doc = include_str!("guide/links.md")]
#![doc = include_str!("../docs/index.md")]

// The pages lie in docs/ at the root of the repository; crates/larder/docs is a link to it, which `cargo package`
// follows. A page refers to another by a reference such as `[locks.md#fences]`, defined at its end with the file's
// name, so that it works on disk. guide/links.md defines the same references with the modules below. It is included
// before each page, and the first definition of a reference is the one that counts. A test of xtask compares both.

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/cache.md")]
pub mod cache {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/choosing-tags.md")]
pub mod choosing_tags {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/near-cache.md")]
pub mod near_cache {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/transactions.md")]
pub mod transactions {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/locks.md")]
pub mod locks {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/jobs.md")]
pub mod jobs {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/rate-limits.md")]
pub mod rate_limits {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/semaphore-or-limit.md")]
pub mod semaphore_or_limit {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/operations.md")]
pub mod operations {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/security.md")]
pub mod security {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/cli.md")]
pub mod cli {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/observability.md")]
pub mod observability {}

// Its examples need these features.
#[doc = include_str!("guide/links.md")]
#[cfg_attr(all(feature = "testing", feature = "axum"), doc = include_str!("../docs/testing.md"))]
#[cfg_attr(
    not(all(feature = "testing", feature = "axum")),
    doc = "Shown if larder is built with the features `testing` and `axum`."
)]
pub mod testing {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/opentelemetry.md")]
pub mod opentelemetry {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/runbook.md")]
pub mod runbook {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/performance.md")]
pub mod performance {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/wire-format.md")]
pub mod wire_format {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/choosing.md")]
pub mod choosing {}

/// Pages for those who know another library.
pub mod from {
    #[doc = include_str!("guide/links.md")]
    #[doc = include_str!("../docs/from/cached.md")]
    pub mod cached {}

    #[doc = include_str!("guide/links.md")]
    #[doc = include_str!("../docs/from/moka.md")]
    pub mod moka {}

    #[doc = include_str!("guide/links.md")]
    #[doc = include_str!("../docs/from/redis-rs.md")]
    pub mod redis_rs {}

    #[doc = include_str!("guide/links.md")]
    #[doc = include_str!("../docs/from/rslock.md")]
    pub mod rslock {}

    #[doc = include_str!("guide/links.md")]
    #[doc = include_str!("../docs/from/governor.md")]
    pub mod governor {}

    #[doc = include_str!("guide/links.md")]
    #[doc = include_str!("../docs/from/fusioncache.md")]
    pub mod fusioncache {}

    #[doc = include_str!("guide/links.md")]
    #[doc = include_str!("../docs/from/redisson.md")]
    pub mod redisson {}
}
