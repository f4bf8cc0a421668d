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

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/performance.md")]
pub mod performance {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/wire-format.md")]
pub mod wire_format {}
