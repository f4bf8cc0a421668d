//! The settings of a cache, their defaults, and the checks that reject invalid ones.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::flight::Flights;
use super::hot_keys::{self, HotKeys};
use super::runs::Runs;
use super::unfenced::WriteRecords;
use super::{Cache, CacheShared, LONGEST_TTL, NearTier, Policy, WhenAbandoned, check_ttl};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::near::{ClearVersion, EntryName, Near, Tier};
use crate::store::Expiry;
use crate::telemetry::CacheMeter;
use crate::value::{Encoder, Format, Value};

/// The default of `wait_timeout`: how long a call waits for a load that another call leads.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The settings of a [`Cache`]. Made by [`Larder::cache`](crate::Larder::cache).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> larder::Result<()> {
/// # let larder = larder::Larder::connect("memory:").await?;
/// use std::time::Duration;
/// use larder::Format;
///
/// let pages = larder
///     .cache::<String>("page")
///     .ttl(Duration::from_secs(600))
///     .ttl_jitter(0.1)
///     .schema(2)
///     .format(Format::Json)
///     .build()?;
/// # let _ = pages; Ok(())
/// # }
/// ```
#[must_use = "a cache is made by build()"]
pub struct CacheBuilder<V> {
    context: Arc<Context>,
    name: String,
    schema: u32,
    expiry: Option<Expiry>,
    jitter: f64,
    format: Format,
    compress_above: Option<usize>,
    verify: bool,
    stale_for: Duration,
    negative_ttl: Option<Duration>,
    early: f64,
    soft_timeout: Option<Duration>,
    hard_timeout: Option<Duration>,
    wait_timeout: Duration,
    when_abandoned: WhenAbandoned,
    outage_loads: usize,
    near: Option<Near>,
    hot_keys: usize,
    trace_keys: bool,
    value: PhantomData<fn() -> V>,
}

impl<V> CacheBuilder<V>
where
    V: Value,
{
    pub(crate) fn new(context: Arc<Context>, name: &str) -> Self {
        Self {
            context,
            name: name.to_owned(),
            schema: 0,
            expiry: None,
            jitter: 0.0,
            format: Format::default(),
            compress_above: None,
            verify: cfg!(debug_assertions),
            stale_for: Duration::ZERO,
            negative_ttl: None,
            early: 0.0,
            soft_timeout: None,
            hard_timeout: None,
            wait_timeout: LONGEST_WAIT,
            when_abandoned: WhenAbandoned::default(),
            outage_loads: 64,
            near: None,
            hot_keys: 0,
            trace_keys: false,
            value: PhantomData,
        }
    }

    /// Sets how long a value is kept if its own call does not say. Default: none. Then each call that stores a value
    /// must set a time to live, and one that does not is an [`InvalidSetting`](crate::ErrorKind::InvalidSetting)
    /// error.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.expiry = Some(Expiry::After(ttl));
        self
    }

    /// Keeps values until they are deleted or evicted, unless their own call says otherwise.
    pub fn no_expiry(mut self) -> Self {
        self.expiry = Some(Expiry::Never);
        self
    }

    /// Shortens each time to live by a random share of up to `share`, from 0 to 1, so that values written together do
    /// not expire together. Default: 0.
    pub fn ttl_jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// Sets the version of `V`'s layout. It is part of every key, so the old and the new program of a rolling
    /// deployment never read or overwrite each other's values. Default: 0, which leaves the key as it is.
    pub fn schema(mut self, schema: u32) -> Self {
        self.schema = schema;
        self
    }

    /// Sets how values are encoded. Default: [`Format::Json`].
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Compresses values whose encoding is longer than `bytes` with LZ4, if that makes them smaller. Default: never.
    /// 1 kB of JSON shrinks by about a quarter, 10 kB by half.
    #[cfg(feature = "compress")]
    pub fn compress_above(mut self, bytes: usize) -> Self {
        self.compress_above = Some(bytes);
        self
    }

    /// Decodes each value again when it is written, and compares. A value that would be lost or would come back
    /// different is not stored: the call fails with an [`Encode`](crate::ErrorKind::Encode) error that says why.
    /// Default: on in builds with debug assertions, so that a program's own tests find a type that the format cannot
    /// carry.
    ///
    /// Values that JSON or MessagePack cannot hold in any type (NaN, `Some(None)`, great depth) are always refused.
    /// This setting finds mistakes that depend on how a type deserializes itself, for example number keys inside a
    /// flattened field. It costs one decoding and two walks through the value for each write. Turn it off for a type
    /// whose `Serialize` gives a different result each time.
    pub fn verify_encoding(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Keeps values for `span` beyond their time to live. In that time they are *stale*: [`get`](Cache::get) treats
    /// them as absent, and [`get_or_load`](Cache::get_or_load) loads, but returns the stale value if the load fails
    /// or takes longer than [`soft_timeout`](Self::soft_timeout). Default: none.
    pub fn stale_for(mut self, span: Duration) -> Self {
        self.stale_for = span;
        self
    }

    /// Sets how long [`get_or_load_optional`](Cache::get_or_load_optional) remembers that the origin has no such
    /// value. Default: it does not remember.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = Some(ttl);
        self
    }

    /// Loads a value again before it expires, in the background, while the old value is still served. The load begins
    /// at random, earlier if the last load took longer, and in one caller at a time. `beta` is the eagerness; the
    /// algorithm recommends 1, and 0 turns it off. Default: 0.
    ///
    /// The algorithm is XFetch: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention",
    /// VLDB 2015.
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.early = beta;
        self
    }

    /// Sets how long a caller that has a stale value waits for the load. After that it gets the stale value, and the
    /// load goes on in the background. Default: as long as the load takes.
    pub fn soft_timeout(mut self, timeout: Duration) -> Self {
        self.soft_timeout = Some(timeout);
        self
    }

    /// Sets how long a loader may run. After that the loader is dropped, and its waiters get the stale value or an
    /// error that [is a timeout](crate::Error::is_timeout). Default: as long as it takes.
    pub fn hard_timeout(mut self, timeout: Duration) -> Self {
        self.hard_timeout = Some(timeout);
        self
    }

    /// Sets how long a call waits for a load that another call leads, in this process or in another. After that it
    /// gets the stale value or an error that [is a timeout](crate::LoadError::is_timeout). The call that leads a load
    /// waits as long as its loader takes. Default: 5 minutes.
    ///
    /// This timeout also ends loads that wait for each other and are not detected: see
    /// [`LoadContext::scope`](crate::LoadContext::scope).
    pub fn wait_timeout(mut self, timeout: Duration) -> Self {
        self.wait_timeout = timeout;
        self
    }

    /// Sets what happens to a load when no caller waits for it any more. Default: [`WhenAbandoned::Finish`].
    pub fn when_abandoned(mut self, policy: WhenAbandoned) -> Self {
        self.when_abandoned = policy;
        self
    }

    /// Sets how many loaders of this cache may run at once in this process while the server is away. Nothing else
    /// then keeps the fleet from sending all its loads to the origin at once. Loaders that themselves load from this
    /// cache are not counted. Default: 64.
    pub fn outage_loads(mut self, loads: usize) -> Self {
        self.outage_loads = loads;
        self
    }

    /// Keeps decoded values in this process too, coherent with the server: see [`Near`]. Default: none.
    pub fn near(mut self, near: Near) -> Self {
        self.near = Some(near);
        self
    }

    /// Counts which keys this process reads most, and lets [`Cache::hot_keys`] report that many of them: at most 100.
    /// One near hit in 64 is counted, and every read that asks the server. Default: 0, which counts nothing.
    ///
    /// The first handle of a name that asks for it decides the number.
    pub fn hot_keys(mut self, reported: usize) -> Self {
        self.hot_keys = reported;
        self
    }

    /// Names the key in the span of each load. Keys may be personal data, so by default they are left out.
    #[cfg(feature = "trace")]
    pub fn trace_keys(mut self) -> Self {
        self.trace_keys = true;
        self
    }

    /// Makes the cache, or another handle of it. Costs no round trip.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`](crate::ErrorKind::InvalidSetting): a name or a setting is invalid, or the `Larder` already
    /// has a cache of this name with another type of value. Correct the call.
    pub fn build(self) -> Result<Cache<V>> {
        // Refuse settings that are out of bounds or contradict each other.
        if let Some(Expiry::After(ttl)) = self.expiry {
            check_ttl(ttl)?;
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            return Err(Error::invalid(format!("ttl_jitter is a share from 0 to 1, not {}", self.jitter)));
        }
        if self.format == Format::Plain && self.compress_above.is_some() {
            return Err(Error::invalid(
                "Format::Plain is bare JSON for others to read, which cannot be compressed",
            ));
        }
        crate::value::check::<V>(self.format)?;
        self.check_loading()?;
        hot_keys::check(self.hot_keys)?;
        // Get the state that all handles of the name share, or make it.
        let prefix = self.context.keyspace.cache(&self.name, self.schema)?;
        let clear = self.context.keyspace.clear(&self.name);
        let shared = self.context.caches.shared(&self.name, || CacheShared::<V> {
            name: self.name.clone(),
            meter: CacheMeter::new(&self.name),
            flights: Flights::default(),
            unfenced: WriteRecords::default(),
            runs: Runs::default(),
            clear: ClearVersion::new(clear.clone()),
            near: OnceLock::new(),
            hot: OnceLock::new(),
            outage: tokio::sync::Semaphore::new(self.outage_loads),
        })?;
        if self.hot_keys > 0 {
            shared.hot.get_or_init(|| HotKeys::new(self.hot_keys));
        }
        // Make the near tier, or check that the one of another handle has the same settings.
        if let Some(settings) = self.near {
            let make =
                || NearTier { copies: Tier::new(settings.max_bytes()), settings, max_age: settings.age() };
            let near = publish(&shared.near, make, |near| {
                if let Some(entry) = EntryName::parse(&prefix) {
                    self.context.invalidations.register(entry.cache, near.clone());
                }
                self.context.invalidations.register(&clear, near.clone());
            });
            if near.settings != settings {
                return Err(Error::invalid(format!(
                    "the cache {:?} has a near tier on this Larder with other settings: use the same in each handle",
                    self.name
                )));
            }
        }
        if self.format == Format::Plain {
            shared.unfenced.need();
        }
        // The rest belongs to this handle alone.
        let encoder = Encoder::new(self.format, self.compress_above, self.context.limits.max_value_bytes)
            .verifying(self.verify);
        let policy = Policy {
            prefix: Name::from(&*prefix),
            schema: self.schema,
            expiry: self.expiry,
            jitter: self.jitter,
            stale_for: self.stale_for,
            negative_ttl: self.negative_ttl,
            early: self.early,
            soft_timeout: self.soft_timeout,
            hard_timeout: self.hard_timeout,
            wait_timeout: self.wait_timeout,
            when_abandoned: self.when_abandoned,
            asks_server: self.near.is_none(),
            trace_keys: self.trace_keys,
            encoder: Arc::new(encoder),
        };
        Ok(Cache { context: self.context, shared, policy: Arc::new(policy) })
    }

    /// Refuses settings of loading that are invalid or contradict each other.
    fn check_loading(&self) -> Result<()> {
        let stale_too_long = self.stale_for > LONGEST_TTL;
        let nonsense = if self.early.is_nan() || !(0.0..=100.0).contains(&self.early) {
            "early_refresh is a beta from 0 to 100"
        } else if stale_too_long {
            "stale_for is at most 100 years"
        } else if self.negative_ttl.is_some_and(|ttl| check_ttl(ttl).is_err()) {
            "negative_ttl is more than zero and at most 100 years"
        } else if self.hard_timeout.is_some_and(|timeout| timeout.is_zero()) {
            "a hard_timeout of zero lets nothing load"
        } else if self.wait_timeout.is_zero() {
            "a wait_timeout of zero lets no call wait for another's load"
        } else if self.outage_loads == 0 || self.outage_loads > tokio::sync::Semaphore::MAX_PERMITS {
            "outage_loads is at least 1"
        } else if self.soft_timeout.is_some() && self.stale_for.is_zero() {
            "soft_timeout serves a stale value, which needs stale_for"
        } else if self.format == Format::Plain
            && (!self.stale_for.is_zero() || self.negative_ttl.is_some() || self.early > 0.0)
        {
            "Format::Plain has no envelope that could say stale, absent or early"
        } else {
            return self.near.map_or(Ok(()), Near::check);
        };
        Err(Error::invalid(nonsense))
    }
}

/// Makes a near tier, registers it for invalidations, and publishes it in `slot` last. Another handle of the name
/// uses the tier as soon as it is published. A copy that it inserted before the registration would miss its
/// invalidations, and would be served until it is too old.
fn publish<T>(slot: &OnceLock<Arc<T>>, make: impl FnOnce() -> T, register: impl FnOnce(&Arc<T>)) -> &Arc<T> {
    slot.get_or_init(|| {
        let near = Arc::new(make());
        register(&near);
        near
    })
}

impl<V> fmt::Debug for CacheBuilder<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("name", &self.name)
            .field("schema", &self.schema)
            .field("expiry", &self.expiry)
            .field("ttl_jitter", &self.jitter)
            .field("format", &self.format)
            .field("compress_above", &self.compress_above)
            .field("stale_for", &self.stale_for)
            .field("near", &self.near)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_tier_is_registered_for_invalidations_before_it_is_published_and_once() {
        let slot = OnceLock::new();
        let mut registered = 0;
        let tier = publish(
            &slot,
            || 7,
            |_| {
                assert_eq!(slot.get(), None, "published before its invalidations are delivered");
                registered += 1;
            },
        );
        assert_eq!(**tier, 7);
        publish(&slot, || 8, |_| panic!("registered twice"));
        assert_eq!((registered, slot.get().map(|tier| **tier)), (1, Some(7)));
    }
}
