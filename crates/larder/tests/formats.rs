//! What each format returns after a round trip, and which values it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use larder::{Cache, Error, ErrorKind, Format, Larder};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use support::{connect, each_store};

const HOUR: Duration = Duration::from_secs(3600);

fn cache<V>(larder: &Larder, format: Format) -> Cache<V>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    // A cache name for each type, because the values of one cache name have one type.
    let name: String =
        std::any::type_name::<V>().chars().filter(char::is_ascii_alphanumeric).take(100).collect();
    larder.cache(&name).ttl(HOUR).format(format).build().unwrap()
}

/// Returns the value after a round trip.
async fn round_trip<V>(larder: &Larder, format: Format, value: &V) -> Result<V, Error>
where
    V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let cache = cache::<V>(larder, format);
    cache.delete("k").await.unwrap();
    cache.set("k", value).await?;
    Ok(cache.get("k").await.unwrap().expect("what set took, get gives"))
}

async fn same<V>(larder: &Larder, formats: &[Format], value: V)
where
    V: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    for format in formats {
        assert_eq!(round_trip(larder, *format, &value).await.unwrap(), value, "{format:?}");
    }
}

/// `set` refuses the value, a load of it is returned and not stored, and the error says why.
async fn refused<V>(larder: &Larder, format: Format, value: V, why: &str)
where
    V: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let error = round_trip(larder, format, &value).await.expect_err("a value that this format cannot carry");
    assert_eq!(error.kind(), ErrorKind::Encode, "{error}");
    assert!(error.to_string().contains(why), "{format:?}: {error}");
    let cache = cache::<V>(larder, format);
    assert_eq!(cache.get("k").await.unwrap().map(drop), None, "something was stored");
    let given = value.clone();
    let loaded = cache.get_or_load("k", || async { Ok::<_, Infallible>(given) }).await.unwrap();
    assert_eq!(format!("{loaded:?}"), format!("{value:?}"));
    assert_eq!(cache.get("k").await.unwrap().map(drop), None, "a load was stored");
}

const BOTH: [Format; 2] = [Format::Json, Format::MessagePack];

fn memory(test: impl AsyncFnOnce(Larder)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { test(connect("memory:").await).await });
}

#[test]
fn every_finite_float_is_read_back_as_it_was() {
    memory(async |larder| {
        let mut runner = proptest::test_runner::TestRunner::default();
        let floats = prop::collection::vec(any::<u64>().prop_map(f64::from_bits), 100);
        let singles = prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 100);
        for _ in 0..100 {
            let floats = floats.new_tree(&mut runner).unwrap().current();
            let mut floats: Vec<f64> = floats.into_iter().filter(|float| float.is_finite()).collect();
            floats.extend([1.577_777_777_777_000_1, -0.0, f64::MIN_POSITIVE, f64::MAX, 0.1 + 0.2]);
            let singles = singles.new_tree(&mut runner).unwrap().current();
            let singles: Vec<f32> = singles.into_iter().filter(|float| float.is_finite()).collect();
            for format in BOTH {
                let back = round_trip(&larder, format, &floats).await.unwrap();
                assert!(floats.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()), "{format:?}");
                let back = round_trip(&larder, format, &singles).await.unwrap();
                assert!(singles.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()), "{format:?}");
            }
        }
    });
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Price {
    net: f64,
    discount: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Patch {
    #[serde(skip_serializing_if = "Option::is_none")]
    nick: Option<Option<String>>,
    id: u32,
}

#[tokio::test]
async fn what_json_would_change_is_refused_on_each_store() {
    for (_, larder) in each_store().await {
        refused(&larder, Format::Json, f64::NAN, "NaN").await;
        refused(&larder, Format::Json, vec![1.0, f64::INFINITY], "inf").await;
        refused(&larder, Format::Json, f32::NEG_INFINITY, "-inf").await;
        refused(&larder, Format::Json, Some(f64::NAN), "NaN").await;
        refused(
            &larder,
            Format::Json,
            Price { net: 1.0, discount: Some(f64::NAN) },
            "discount: JSON cannot hold",
        )
        .await;
        refused(&larder, Format::Json, Some(None::<u8>), "would be None when JSON is read back").await;
        refused(&larder, Format::Json, Some(()), "None").await;
        refused(&larder, Format::Json, Some(Unit), "None").await;
        refused(&larder, Format::Json, Patch { nick: Some(None), id: 1 }, "nick: ").await;
        refused(&larder, Format::Plain, f64::NAN, "NaN").await;
    }
}

#[test]
fn message_pack_carries_all_floats_and_units_and_refuses_none_in_some() {
    memory(async |larder| {
        assert!(round_trip(&larder, Format::MessagePack, &f64::NAN).await.unwrap().is_nan());
        same(&larder, &[Format::MessagePack], vec![f32::INFINITY, f32::NEG_INFINITY]).await;
        same(&larder, &[Format::MessagePack], Some(Unit)).await;
        refused(
            &larder,
            Format::MessagePack,
            Some(None::<u8>),
            "would be None when MessagePack is read back",
        )
        .await;
        refused(&larder, Format::MessagePack, Some(()), "None").await;
        refused(&larder, Format::MessagePack, Patch { nick: Some(None), id: 1 }, "nick: ").await;
    });
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t")]
enum Event {
    Login { from: IpAddr },
    Big { n: u128 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FlatIps {
    #[serde(flatten)]
    more: BTreeMap<String, IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Inner {
    by_id: HashMap<u64, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    #[serde(flatten)]
    inner: Inner,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    New(Option<u8>),
    Tuple(u8, Option<u8>),
    Struct { x: Option<u8> },
}

#[test]
fn what_serde_reads_from_a_buffer_is_read_back_from_both_formats() {
    memory(async |larder| {
        let ip: IpAddr = "8.8.8.8".parse().unwrap();
        same(&larder, &BOTH, ip).await;
        same(&larder, &BOTH, Host::Ip(ip)).await;
        same(&larder, &BOTH, Host::Name("x".into())).await;
        same(&larder, &BOTH, Event::Login { from: "::1".parse().unwrap() }).await;
        same(&larder, &BOTH, FlatIps { more: [("a".into(), ip)].into() }).await;
        same(&larder, &[Format::MessagePack], Flat { inner: Inner { by_id: [(7, "x".into())].into() } })
            .await;
    });
}

#[test]
fn ordinary_values_are_not_refused() {
    memory(async |larder| {
        same(&larder, &BOTH, HashSet::from(["a".to_owned(), "b".to_owned(), "c".to_owned()])).await;
        same(&larder, &BOTH, HashMap::from([(7u64, vec![Some(1u8), None]), (8, vec![])])).await;
        same(&larder, &BOTH, HashMap::from([(true, ())])).await;
        same(&larder, &BOTH, (None::<u8>, Some(Some(1u8)), (), Unit)).await;
        same(&larder, &BOTH, [i64::MIN, i64::MAX, 0, -1]).await;
        same(&larder, &BOTH, [u128::MAX, 0]).await;
        same(&larder, &BOTH, ("\0\u{1}\u{2028}🦀".to_owned(), '\0', String::new())).await;
        same(&larder, &BOTH, (Duration::MAX, SystemTime::UNIX_EPOCH)).await;
        same(&larder, &BOTH, serde_json::json!({"a": 1.5777777777770001f64, "b": u64::MAX, "c": [null, -1]}))
            .await;
        same(
            &larder,
            &BOTH,
            vec![Shape::Unit, Shape::New(None), Shape::Tuple(1, None), Shape::Struct { x: Some(1) }],
        )
        .await;
        same(&larder, &BOTH, Arc::<str>::from("shared")).await;
        same(&larder, &BOTH, Bytes::from_static(b"bytes")).await;
    });
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Node {
    kids: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Fork(Box<(Tree, Tree)>),
}

#[test]
fn depth_is_carried_to_what_the_decoder_reads_and_refused_beyond() {
    let deep = |depth: usize| (1..depth).fold(Node { kids: vec![] }, |kid, _| Node { kids: vec![kid] });
    // A node is a struct and a sequence. JSON's decoder reads 127 containers, MessagePack's 255.
    let in_big_stack = std::thread::Builder::new().stack_size(64 << 20).spawn(move || {
        memory(async |larder| {
            same(&larder, &BOTH, deep(63)).await;
            refused(&larder, Format::Json, deep(64), "127").await;
            same(&larder, &[Format::MessagePack], deep(127)).await;
            refused(&larder, Format::MessagePack, deep(128), "255").await;
            // Three containers in JSON's form; one of them names the variant.
            let fork = |depth: usize| {
                (0..depth).fold(Tree::Leaf, |tree, _| Tree::Fork(Box::new((tree, Tree::Leaf))))
            };
            same(&larder, &BOTH, fork(63)).await;
            refused(&larder, Format::Json, fork(64), "127").await;
        });
    });
    in_big_stack.unwrap().join().unwrap();
}

#[test]
fn what_only_the_type_knows_is_refused_by_the_verified_round_trip() {
    memory(async |larder| {
        let flat = Flat { inner: Inner { by_id: [(7, "x".into())].into() } };
        let verified: Cache<Flat> = larder.cache("flat").ttl(HOUR).verify_encoding(true).build().unwrap();
        let error = verified.set("k", &flat).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(error.to_string().contains("cannot be read back from Json: invalid type"), "{error}");
        // The same cache name, unverified: the value is stored, and counts as unreadable.
        let trusting: Cache<Flat> = larder.cache("flat").ttl(HOUR).verify_encoding(false).build().unwrap();
        trusting.set("k", &flat).await.unwrap();
        assert_eq!(trusting.get("k").await.unwrap(), None);
        assert_eq!(larder.stats().caches["flat"].unreadable, 1);

        let big: Cache<Event> =
            larder.cache("big").format(Format::MessagePack).ttl(HOUR).verify_encoding(true).build().unwrap();
        assert_eq!(big.set("k", &Event::Big { n: u128::MAX }).await.unwrap_err().kind(), ErrorKind::Encode);
        big.set("k", &Event::Login { from: "::1".parse().unwrap() }).await.unwrap();
    });
}

/// Written as one type and read as another, as a `serialize_with` without its counterpart does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Halved {
    #[serde(serialize_with = "half")]
    n: u32,
}

fn half<S: serde::Serializer>(n: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(n / 2)
}

#[test]
fn a_value_that_is_read_back_different_is_refused_by_the_verified_round_trip() {
    memory(async |larder| {
        for format in [Format::Json, Format::Plain, Format::MessagePack] {
            let cache: Cache<Halved> = larder
                .cache(format!("{format:?}"))
                .format(format)
                .ttl(HOUR)
                .verify_encoding(true)
                .build()
                .unwrap();
            let error = cache.set("k", &Halved { n: 8 }).await.unwrap_err();
            assert!(error.to_string().contains("differs when it is read back"), "{error}");
            cache.set("k", &Halved { n: 0 }).await.unwrap();
        }
    });
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Page(Vec<u8>);

#[tokio::test]
async fn raw_bytes_take_their_own_length_and_an_envelope_on_each_store() {
    for (store, larder) in each_store().await {
        let raw: Vec<u8> = (0..3u32 << 20).map(|i| (i.wrapping_mul(7919) >> 3) as u8).collect();
        let pages: Cache<Bytes> = larder.cache("page").format(Format::Raw).ttl(HOUR).build().unwrap();
        pages.set("k", &Bytes::from(raw.clone())).await.unwrap();
        assert_eq!(pages.get("k").await.unwrap().as_deref(), Some(&*raw), "{store}");
        assert_eq!(larder.stats().caches["page"].bytes_written, raw.len() as u64 + 40);
        let loaded = pages.get_or_load("l", || async { Ok::<_, Infallible>(Bytes::from_static(b"\0\xFF{")) });
        assert_eq!(loaded.await.unwrap(), &b"\0\xFF{"[..]);
        assert_eq!(pages.get("l").await.unwrap(), Some(Bytes::from_static(b"\0\xFF{")));
    }
}

#[test]
fn whatever_is_bytes_to_serde_is_kept_raw() {
    memory(async |larder| {
        let raw = &[Format::Raw];
        same(&larder, raw, vec![0u8, 0x9A, 1, 255]).await;
        same(&larder, raw, Vec::<u8>::new()).await;
        same(&larder, raw, Bytes::from_static(b"{}")).await;
        same(&larder, raw, "text".to_owned()).await;
        same(&larder, raw, Arc::<str>::from("text")).await;
        same(&larder, raw, Arc::<[u8]>::from(&b"shared"[..])).await;
        same(&larder, raw, [7u8; 16]).await;
        same(&larder, raw, Page(vec![1, 2, 3])).await;
    });
}

#[test]
fn a_cache_of_what_is_no_bytes_cannot_be_built_raw() {
    fn error<V>(larder: &Larder) -> String
    where
        V: Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let error = larder.cache::<V>("c").ttl(HOUR).format(Format::Raw).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSetting);
        error.to_string()
    }
    memory(async |larder| {
        assert!(error::<Unit>(&larder).contains("Unit is not: it is read from a unit"));
        assert!(error::<Patch>(&larder).contains("a struct"));
        assert!(error::<Vec<u64>>(&larder).contains("a number"));
        assert!(error::<Option<Vec<u8>>>(&larder).contains("an Option"));
        assert!(error::<Vec<String>>(&larder).contains("a sequence of texts"));
        assert!(error::<HashMap<u8, u8>>(&larder).contains("a map"));
        assert!(error::<serde_json::Value>(&larder).contains("a self-describing format"));
        assert!(error::<u64>(&larder).contains("a number"));
    });
}

#[test]
fn a_cache_reads_each_format_that_another_wrote() {
    memory(async |larder| {
        for format in [Format::Json, Format::MessagePack, Format::Plain, Format::Raw] {
            let writer: Cache<Vec<u8>> = larder.cache("bytes").ttl(HOUR).format(format).build().unwrap();
            let reader: Cache<Vec<u8>> = larder.cache("bytes").ttl(HOUR).format(Format::Raw).build().unwrap();
            writer.set("k", &vec![1, 2, 3]).await.unwrap();
            assert_eq!(reader.get("k").await.unwrap(), Some(vec![1, 2, 3]), "{format:?}");
        }
    });
}
