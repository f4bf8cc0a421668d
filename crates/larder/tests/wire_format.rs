//! docs/wire-format.md is true: the test reads the page's tables and example, and a second implementation, written from
//! the page alone, reads what larder writes and writes what larder reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder::{Cache, CacheKey, Expiry, Format, KeyText, Larder, Quota};
use larder_testkit::Server;
use proptest::prelude::{Just, Strategy, any};
use proptest::test_runner::{Config, TestRunner};
use proptest::{collection, prop_assert_eq, prop_oneof};
use support::{User, patient, until, user};

const PAGE: &str = include_str!("../../../docs/wire-format.md");
const HOUR: Duration = Duration::from_secs(3600);

async fn connect(server: &Server, namespace: &str) -> Larder {
    let builder = Larder::builder().url(server.url()).response_timeout(Duration::from_secs(5));
    let builder = if namespace.is_empty() { builder } else { builder.namespace(namespace) };
    builder.connect().await.unwrap()
}

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).build().unwrap()
}

/// A connection that can send any bytes, because larder's own encoding is what is being tested.
fn raw(server: &Server) -> redis::Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}

fn put(connection: &mut redis::Connection, name: &str, bytes: &[u8]) {
    redis::cmd("SET").arg(name).arg(bytes).arg("PX").arg(3_600_000).exec(connection).unwrap();
}

fn stored(connection: &mut redis::Connection, name: &str) -> Vec<u8> {
    redis::cmd("GET").arg(name).query::<Option<Vec<u8>>>(connection).unwrap().unwrap()
}

fn names(server: &Server) -> Vec<String> {
    let mut names: Vec<String> = server.query(&["KEYS", "*"]);
    names.sort();
    names
}

/// The names of entries, and the names of everything else.
fn entries_and_others(server: &Server) -> (Vec<String>, Vec<String>) {
    names(server).into_iter().partition(|name| !name.starts_with('~'))
}

/// The commands that the server ran during `work`, with their arguments, without the commands inside scripts.
async fn commands(server: &Server, work: impl Future<Output = ()>) -> Vec<Vec<String>> {
    server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    server.command(&["SLOWLOG", "RESET"]);
    work.await;
    let log: Vec<redis::Value> = server.query(&["SLOWLOG", "GET", "100"]);
    server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "-1"]);
    let words = |line: redis::Value| match line {
        redis::Value::Array(mut parts) => redis::from_redis_value::<Vec<String>>(parts.remove(3)).unwrap(),
        other => panic!("{other:?}"),
    };
    let ours = |line: &Vec<String>| !["TIME", "SLOWLOG", "CONFIG"].contains(&line[0].to_uppercase().as_str());
    log.into_iter().rev().map(words).filter(ours).collect()
}

// ---- what the page says ----

/// The cells of the table whose header begins with these words, without their code marks.
fn table(header: &str) -> Vec<Vec<String>> {
    let (_, rest) = PAGE.split_once(header).expect("the table is on the page");
    let rows: Vec<Vec<String>> = rest
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.strip_prefix('|').unwrap().strip_suffix('|').unwrap().split('|');
            let text = |cell: &str| match cell.trim() {
                "none" => String::new(),
                cell => cell.trim_matches('`').to_owned(),
            };
            cells.map(text).collect()
        })
        .collect();
    assert!(rows.len() > 5, "{header}: {rows:?}");
    rows
}

/// The bytes of the worked example.
fn example() -> Vec<u8> {
    let (_, rest) = PAGE.split_once("```hex\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let digits: String =
        block.lines().map(|line| line.split("   ").next().unwrap().replace(' ', "")).collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// A key as in the page's table: JSON, with arrays for tuples.
struct Key(serde_json::Value);

impl CacheKey for Key {
    fn write(&self, text: &mut KeyText<'_>) {
        use serde_json::Value;
        let part = |value: &Value| Self(value.clone());
        match &self.0 {
            Value::Bool(flag) => flag.write(text),
            Value::Number(number) => number.as_i64().unwrap().write(text),
            Value::String(string) => string.write(text),
            Value::Array(parts) => match parts.as_slice() {
                [a] => (part(a),).write(text),
                [a, b] => (part(a), part(b)).write(text),
                [a, b, c] => (part(a), part(b), part(c)).write(text),
                [a, b, c, d] => (part(a), part(b), part(c), part(d)).write(text),
                other => panic!("{other:?}"),
            },
            other => panic!("{other}"),
        }
    }
}

// ---- a second implementation, made from the page ----

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    kind: u8,
    /// Whether the time is when the entry expires, rather than when it becomes stale.
    expires: bool,
    compression: u8,
    codec: u8,
    nonce: u64,
    written_at: u64,
    fresh_until: u64,
    load_micros: u32,
    clear: u64,
    tags: Vec<(u64, String)>,
    payload: Vec<u8>,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Entry {
    fn value(payload: &[u8]) -> Self {
        Self {
            kind: 0,
            expires: false,
            compression: 0,
            codec: 0,
            nonce: 1,
            written_at: 1,
            fresh_until: 0,
            load_micros: 0,
            clear: 0,
            tags: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    fn read(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 40);
        assert_eq!(bytes[..2], [0x9A, 1]);
        assert_eq!(number(&bytes[36..40]), u64::from(Self::crc(bytes)));
        let mut tags = Vec::new();
        let mut at = 40;
        for _ in 0..bytes[3] {
            let length = usize::from(bytes[at + 8]);
            let text = String::from_utf8(bytes[at + 9..at + 9 + length].to_vec()).unwrap();
            tags.push((number(&bytes[at..at + 8]), text));
            at += 9 + length;
        }
        Self {
            kind: bytes[2] >> 6,
            expires: bytes[2] >> 5 & 1 == 1,
            compression: bytes[2] >> 3 & 3,
            codec: bytes[2] & 7,
            nonce: number(&bytes[4..12]),
            written_at: number(&bytes[12..18]),
            fresh_until: number(&bytes[18..24]),
            load_micros: u32::try_from(number(&bytes[24..28])).unwrap(),
            clear: number(&bytes[28..36]),
            tags,
            payload: bytes[at..].to_vec(),
        }
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes =
            vec![0x9A, 1, self.kind << 6 | u8::from(self.expires) << 5 | self.compression << 3 | self.codec];
        bytes.push(u8::try_from(self.tags.len()).unwrap());
        bytes.extend(self.nonce.to_be_bytes());
        bytes.extend(&self.written_at.to_be_bytes()[2..]);
        bytes.extend(&self.fresh_until.to_be_bytes()[2..]);
        bytes.extend(self.load_micros.to_be_bytes());
        bytes.extend(self.clear.to_be_bytes());
        bytes.extend([0; 4]);
        for (version, tag) in &self.tags {
            bytes.extend(version.to_be_bytes());
            bytes.push(u8::try_from(tag.len()).unwrap());
            bytes.extend(tag.as_bytes());
        }
        bytes.extend(&self.payload);
        let crc = Self::crc(&bytes).to_be_bytes();
        bytes[36..40].copy_from_slice(&crc);
        bytes
    }

    fn crc(bytes: &[u8]) -> u32 {
        crc32fast::hash(&[&bytes[..36], &bytes[40..]].concat())
    }

    /// What the entry is to a reader of numbers, given these versions.
    fn classify(bytes: &[u8], clear: u64, tags: &BTreeMap<&str, u64>) -> Served {
        let Some((carried, carried_tags, payload)) = Self::parse_strictly(bytes) else {
            return Served::Unreadable;
        };
        // Of the times that are tried here one is long past and one is far in the future.
        let is_stale = bytes[2] >> 5 & 1 == 0 && number(&bytes[18..24]) == 1;
        let held = (carried == 0 || carried == clear)
            && carried_tags.iter().all(|(version, tag)| tags.get(tag.as_str()) == Some(version));
        if !held || bytes[2] >> 6 != 0 {
            return Served::Nothing;
        }
        match Self::value_of(bytes[2], payload) {
            None => Served::Unreadable,
            Some(_) if is_stale => Served::Nothing,
            Some(value) => Served::Value(value),
        }
    }

    /// The clear version, the tags and the payload; `None` if the entry is unreadable.
    #[expect(clippy::type_complexity, reason = "of one use")]
    fn parse_strictly(bytes: &[u8]) -> Option<(u64, Vec<(u64, String)>, &[u8])> {
        let (kind, compression, codec) = (bytes[2] >> 6, bytes[2] >> 3 & 3, bytes[2] & 7);
        if kind > 2 || compression > 1 || codec > 2 {
            return None;
        }
        let (mut tags, mut rest) = (Vec::new(), &bytes[40..]);
        for _ in 0..bytes[3] {
            let (version, after) = rest.split_at_checked(8)?;
            let (length, after) = after.split_first()?;
            let (tag, after) = after.split_at_checked(usize::from(*length))?;
            tags.push((number(version), String::from_utf8(tag.to_vec()).ok()?));
            rest = after;
        }
        Some((number(&bytes[28..36]), tags, rest))
    }

    /// The number in a value; `None` if it cannot be decoded.
    fn value_of(packed: u8, payload: &[u8]) -> Option<u32> {
        let plain = if packed >> 3 & 3 == 1 {
            let (length, block) = payload.split_at_checked(4)?;
            let length = usize::try_from(number(length)).ok().filter(|length| *length <= 8 << 20)?;
            lz4_flex::block::decompress(block, length).ok()?
        } else {
            payload.to_vec()
        };
        match packed & 7 {
            0 => serde_json::from_slice(&plain).ok(),
            // These are bytes, and the value is a number.
            2 => None,
            _ => rmp_serde::from_slice(&plain).ok(),
        }
    }

    fn plain(&self) -> Vec<u8> {
        if self.compression == 0 {
            return self.payload.clone();
        }
        let length = usize::try_from(number(&self.payload[..4])).unwrap();
        let plain = lz4_flex::block::decompress(&self.payload[4..], length).unwrap();
        assert_eq!(plain.len(), length);
        plain
    }
}

#[derive(Debug, PartialEq)]
enum Served {
    Value(u32),
    Nothing,
    Unreadable,
}

/// Reads a version, and creates it if there is none, as the page tells writers to.
fn version(connection: &mut redis::Connection, name: &str) -> u64 {
    let made = "00000000000000ab";
    let mut set = redis::cmd("SET");
    set.arg(name).arg(made).arg("NX").arg("PX").arg(172_800_000).exec(connection).unwrap();
    standing(connection, name)
}

/// A version that larder created.
fn standing(connection: &mut redis::Connection, name: &str) -> u64 {
    let text = String::from_utf8(stored(connection, name)).unwrap();
    assert!(is_version(&text), "{text}");
    u64::from_str_radix(&text, 16).unwrap()
}

fn is_version(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
}

// ---- the tests ----

#[tokio::test]
async fn the_pages_example_is_read_as_the_page_says_and_is_what_the_page_takes_apart() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let bytes = example();
    let mut connection = raw(&server);
    put(&mut connection, "shop/user:123", &bytes);
    assert_eq!(users(&larder).get("123").await.unwrap(), None, "the tag has no version");
    assert_eq!(larder.stats().caches["user"].unreadable, 0, "invalid is not unreadable");
    put(&mut connection, "~tag.1:{shop/team:7}", b"1122334455667788");
    assert_eq!(users(&larder).get("123").await.unwrap(), None, "the cache has no version");
    put(&mut connection, "~clear.1:{shop/user}", b"8877665544332211");
    assert_eq!(users(&larder).get("123").await.unwrap(), Some(user("Ann")));
    assert!(users(&larder).exists("123").await.unwrap());
    for (name, version) in
        [("~tag.1:{shop/team:7}", "1122334455667788"), ("~clear.1:{shop/user}", "8877665544332211")]
    {
        put(&mut connection, name, b"1122334455667789");
        until("the new version is reported", async || users(&larder).get("123").await.unwrap().is_none())
            .await;
        assert!(!users(&larder).exists("123").await.unwrap());
        put(&mut connection, name, version.as_bytes());
        until("the old one is reported", async || users(&larder).get("123").await.unwrap().is_some()).await;
    }
    assert_eq!(larder.stats().caches["user"].unreadable, 0);

    let entry = Entry {
        nonce: 0x0123_4567_89ab_cdef,
        written_at: 1_767_225_600_000,
        load_micros: 1500,
        clear: 0x8877_6655_4433_2211,
        tags: vec![(0x1122_3344_5566_7788, "team:7".to_owned())],
        ..Entry::value(br#"{"name":"Ann","age":30}"#)
    };
    assert_eq!(Entry::read(&bytes), entry);
    assert_eq!(entry.write(), bytes);
}

#[tokio::test]
async fn what_larder_writes_reads_as_the_page_says() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let mut connection = raw(&server);
    let before = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let mut nonces = Vec::new();
    let people: Vec<User> = vec![user("Ann"), user(&"Ann ".repeat(500))];
    for (format, codec) in [(Format::Json, 0), (Format::MessagePack, 1)] {
        for (threshold, person) in [(None, &people[0]), (Some(100), &people[1]), (Some(100), &people[0])] {
            let builder = larder.cache::<User>("user").ttl(HOUR).format(format);
            let users = match threshold {
                None => builder,
                Some(bytes) => builder.compress_above(bytes),
            };
            let users = users.build().unwrap();
            users.set("a", person).tag("team:7").tag("a{b}%").tag("team:7").await.unwrap();
            let entry = Entry::read(&stored(&mut connection, "shop/user:a"));
            let large = person.name.len() > 100;
            assert_eq!((entry.kind, entry.compression, entry.codec), (0, u8::from(large), codec));
            let back: User = match codec {
                0 => serde_json::from_slice(&entry.plain()).unwrap(),
                _ => rmp_serde::from_slice(&entry.plain()).unwrap(),
            };
            assert_eq!(&back, person);
            let tags: Vec<&str> = entry.tags.iter().map(|(_, tag)| tag.as_str()).collect();
            assert_eq!(tags, ["a{b}%", "team:7"]);
            for (version, name) in
                entry.tags.iter().map(|(version, _)| version).zip(["a%7Bb%7D%25", "team:7"])
            {
                let text = stored(&mut connection, &format!("~tag.1:{{shop/{name}}}"));
                assert_eq!(text, format!("{version:016x}").as_bytes());
            }
            // The server runs on this machine, so they share a clock.
            assert!(entry.written_at + 1000 > before && entry.written_at < before + 60_000);
            assert!(entry.expires && entry.fresh_until == entry.written_at + 3_600_000, "{entry:?}");
            assert_eq!(entry.load_micros, 0);
            assert_eq!(entry.clear, standing(&mut connection, "~clear.1:{shop/user}"));
            nonces.push(entry.nonce);
        }
    }
    nonces.sort_unstable();
    nonces.dedup();
    assert!(nonces.len() == 6 && !nonces.contains(&0), "{nonces:?}");

    // Field names, not positions, so that a field can be added.
    let packed = larder.cache::<User>("packed").ttl(HOUR).format(Format::MessagePack).build().unwrap();
    packed.set("a", &people[0]).await.unwrap();
    let payload = Entry::read(&stored(&mut connection, "shop/packed:a")).payload;
    assert_eq!(payload, b"\x82\xa4name\xa3Ann\xa3age\x1e");

    let plain = larder.cache::<User>("plain").ttl(HOUR).format(Format::Plain).build().unwrap();
    plain.set("a", &people[0]).await.unwrap();
    assert_eq!(stored(&mut connection, "shop/plain:a"), br#"{"name":"Ann","age":30}"#);
}

#[tokio::test]
async fn what_the_page_teaches_to_write_larder_reads() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let mut connection = raw(&server);
    put(&mut connection, "~tag.1:{shop/t}", b"00000000000000ff");
    put(&mut connection, "~clear.1:{shop/user}", b"0000000000000009");
    let json = br#"{"name":"Ann","age":30}"#;
    let packed = rmp_serde::to_vec_named(&user("Ann")).unwrap();
    let mut lz4 = u32::try_from(json.len()).unwrap().to_be_bytes().to_vec();
    lz4.extend(lz4_flex::block::compress(json));
    let tags = vec![(255, "t".to_owned())];
    let readable = [
        Entry::value(json),
        Entry { codec: 1, ..Entry::value(&packed) },
        Entry { compression: 1, ..Entry::value(&lz4) },
        Entry { tags: tags.clone(), ..Entry::value(json) },
        Entry { clear: 9, ..Entry::value(json) },
        // It would have expired, but was touched since.
        Entry { expires: true, fresh_until: 1, ..Entry::value(json) },
        // The largest value of every field.
        Entry {
            fresh_until: (1 << 48) - 1,
            nonce: u64::MAX,
            written_at: (1 << 48) - 1,
            load_micros: u32::MAX,
            ..Entry::value(json)
        },
    ];
    for entry in &readable {
        put(&mut connection, "shop/user:a", &entry.write());
        assert_eq!(users(&larder).get("a").await.unwrap(), Some(user("Ann")), "{entry:?}");
        assert!(users(&larder).exists("a").await.unwrap(), "{entry:?}");
        assert_eq!(users(&larder).get_many(["a"]).await.unwrap(), [Some(user("Ann"))]);
    }
    for bare in [&b" {\"age\":30, \"name\":\"Ann\", \"more\":[]}\n"[..], json] {
        put(&mut connection, "shop/user:a", bare);
        assert_eq!(users(&larder).get("a").await.unwrap(), Some(user("Ann")));
    }
    assert_eq!(larder.stats().caches["user"].unreadable, 0);

    let nothing = [
        Entry { kind: 1, ..Entry::value(b"") },
        Entry { kind: 2, ..Entry::value(b"") },
        Entry { tags: vec![(254, "t".to_owned())], ..Entry::value(json) },
        Entry { tags: vec![(255, "other".to_owned())], ..Entry::value(json) },
        Entry { tags: vec![(255, "t".to_owned()), (0, "other".to_owned())], ..Entry::value(json) },
        Entry { clear: 8, ..Entry::value(json) },
        Entry { clear: 8, tags, ..Entry::value(json) },
        Entry { fresh_until: 1, ..Entry::value(json) },
    ];
    for entry in &nothing {
        put(&mut connection, "shop/user:a", &entry.write());
        assert_eq!(users(&larder).get("a").await.unwrap(), None, "{entry:?}");
        assert!(!users(&larder).exists("a").await.unwrap(), "{entry:?}");
        assert_eq!(users(&larder).get_many(["a"]).await.unwrap(), [None]);
    }
    // The last one is stale, which is better than nothing.
    let failed = users(&larder).get_or_load("a", || async { Err::<User, _>("no") }).await;
    assert_eq!(failed.unwrap(), user("Ann"));
    assert_eq!(larder.stats().caches["user"].unreadable, 0);
}

#[tokio::test]
async fn a_writer_of_another_language_is_right_with_clear_and_tags_by_reading_versions_first() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let mut connection = raw(&server);
    let (clear, tag) = ("~clear.1:{shop/user}", "~tag.1:{shop/t}");
    let json = br#"{"name":"Ann","age":30}"#;
    let users = users(&larder);
    let is_there = async || {
        let there = users.get("a").await.unwrap().is_some();
        assert_eq!(users.exists("a").await.unwrap(), there);
        there
    };
    let mut write = || {
        let tags = vec![(version(&mut connection, tag), "t".to_owned())];
        let entry = Entry { clear: version(&mut connection, clear), tags, ..Entry::value(json) };
        put(&mut connection, "shop/user:a", &entry.write());
    };
    write();
    assert!(is_there().await, "under versions that the writer made");
    users.clear().await.unwrap();
    assert!(!is_there().await);
    write();
    assert!(is_there().await, "under a version that larder made");
    larder.tag("t").invalidate().await.unwrap();
    assert!(!is_there().await);
    write();

    // The server notifies larder when the second implementation replaces a version itself.
    for name in [clear, tag] {
        write();
        until("the entry is there", is_there).await;
        server.command(&["SET", name, "00000000000000cd", "PX", "172800000"]);
        until("the new version is reported", async || !is_there().await).await;
    }
    // Without a clear version.
    put(&mut raw(&server), "shop/user:a", &Entry::value(json).write());
    users.clear().await.unwrap();
    assert!(is_there().await);
}

#[tokio::test]
async fn an_invalidation_replaces_the_epoch_before_the_tag_and_a_delete_unlinks_the_entry_alone() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let sent = commands(&server, async { larder.tag("t").invalidate().await.unwrap() }).await;
    let [epoch, tag] = sent.as_slice() else { panic!("{sent:?}") };
    for (line, name) in [(epoch, "~epoch.1:{shop/}"), (tag, "~tag.1:{shop/t}")] {
        let [set, replaced, version, px, kept] = line.as_slice() else { panic!("{line:?}") };
        assert_eq!([set, replaced, px, kept], ["SET", name, "PX", "172800000"]);
        assert!(is_version(version), "{version}");
    }
    let sent = commands(&server, async { users(&larder).clear().await.unwrap() }).await;
    let [clear] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!(
        [&clear[0], &clear[1], &clear[3], &clear[4]],
        ["SET", "~clear.1:{shop/user}", "PX", "172800000"]
    );
    let sent = commands(&server, async { assert!(!users(&larder).delete("a").await.unwrap()) }).await;
    assert_eq!(sent, [["UNLINK", "shop/user:a"]]);

    // By another client, while a loader runs that will name a tag.
    let url = server.url();
    let loader = |loading: larder::LoadContext<User>| async move {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        standing(&mut connection, "~epoch.1:{shop/}");
        put(&mut connection, "~epoch.1:{shop/}", b"00000000000000cd");
        loading.tag("t");
        Ok::<_, Infallible>(user("loaded"))
    };
    assert_eq!(users(&larder).get_or_load_with("a", loader).await.unwrap(), user("loaded"));
    assert_eq!(larder.stats().caches["user"].fills_invalidated, 1);
    until("its placeholder is gone", async || server.query::<u64>(&["EXISTS", "shop/user:a"]) == 0).await;
}

#[tokio::test]
async fn fresh_until_is_written_where_stale_values_are_kept_or_refreshed_early_and_by_expire() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let mut connection = raw(&server);
    let hour = 3_600_000;
    let cache = || larder.cache::<User>("user").ttl(HOUR);
    let caches = [
        (cache(), 0, hour),
        (cache().stale_for(HOUR / 2), 3_600_000, hour + hour / 2),
        (cache().early_refresh(1.0), 3_600_000, hour),
    ];
    for (cache, fresh_for, kept_for) in caches {
        let cache = cache.build().unwrap();
        cache.set("a", &user("Ann")).tag("t").await.unwrap();
        let left = || server.query::<i64>(&["PTTL", "shop/user:a"]);
        assert!(left() <= kept_for && left() > kept_for - 60_000, "{}", left());
        let before = Entry::read(&stored(&mut connection, "shop/user:a"));
        // If nothing is kept beyond this time, it is also when the entry expires.
        assert_eq!((before.expires, before.fresh_until), (fresh_for == 0, before.written_at + 3_600_000));

        assert!(cache.expire("a").await.unwrap());
        let after = Entry::read(&stored(&mut connection, "shop/user:a"));
        assert_ne!(after.nonce, before.nonce);
        assert_eq!(after, Entry { nonce: after.nonce, expires: false, fresh_until: 1, ..before });
        assert!(left() <= kept_for && left() > kept_for - 60_000, "{}", left());
        assert_eq!(cache.get("a").await.unwrap(), None);

        cache.set("a", &user("Ann")).no_expiry().await.unwrap();
        assert_eq!(Entry::read(&stored(&mut connection, "shop/user:a")).fresh_until, 0);
    }
}

#[tokio::test]
async fn a_known_absence_is_an_entry_of_its_own_kind() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let mut connection = raw(&server);
    let minute = Duration::from_secs(60);
    let users = larder.cache::<User>("user").ttl(HOUR).stale_for(HOUR).negative_ttl(minute).build().unwrap();
    let load_absent = async |key: &str| {
        let asked = users.get_or_load_optional(key, |_| async { Ok::<_, Infallible>(None) });
        assert_eq!(asked.tag("t").await.unwrap(), None);
    };
    load_absent("a").await;
    let absence = Entry::read(&stored(&mut connection, "shop/user:a"));
    let wanted = Entry {
        kind: 1,
        nonce: absence.nonce,
        written_at: absence.written_at,
        load_micros: absence.load_micros,
        clear: standing(&mut connection, "~clear.1:{shop/user}"),
        tags: vec![(standing(&mut connection, "~tag.1:{shop/t}"), "t".to_owned())],
        ..Entry::value(b"")
    };
    assert_eq!(absence, wanted);
    let left = server.query::<i64>(&["PTTL", "shop/user:a"]);
    assert!(left > 0 && left <= 60_000, "{left}");
    assert!(users.get("a").await.unwrap().is_none() && !users.exists("a").await.unwrap());
    load_absent("a").await;
    assert_eq!(larder.stats().caches["user"].loads, 1, "the second did not load");
    let loaded = users.get_or_load("a", || async { Ok::<_, Infallible>(user("Ann")) }).await.unwrap();
    assert_eq!(users.get("a").await.unwrap(), Some(loaded), "one who cannot do with nothing loads over it");

    // An absence that another program stored is valid under the same conditions as a value.
    put(&mut connection, "shop/user:b", &wanted.write());
    load_absent("b").await;
    assert_eq!(larder.stats().caches["user"].loads, 2);
    put(&mut connection, "shop/user:b", &Entry { clear: 1, ..wanted }.write());
    load_absent("b").await;
    assert_eq!(larder.stats().caches["user"].loads, 3);
}

#[tokio::test]
async fn an_unknown_layout_is_a_miss_that_is_counted_and_loaded_over() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let mut connection = raw(&server);
    let json = br#"{"name":"Ann","age":30}"#;
    let mut newer = Entry::value(json).write();
    newer[1] = 2;
    let crc = Entry::crc(&newer).to_be_bytes();
    newer[36..40].copy_from_slice(&crc);
    let mut huge = Entry { compression: 1, ..Entry::value(b"") };
    huge.payload = u32::MAX.to_be_bytes().to_vec();
    let overlong = Entry { tags: vec![(1, "t".to_owned())], ..Entry::value(b"") }.write();
    let mut running_past = overlong.clone();
    running_past[48] = 200;
    let crc = Entry::crc(&running_past).to_be_bytes();
    running_past[36..40].copy_from_slice(&crc);
    let strange = [
        newer,
        Entry { kind: 3, ..Entry::value(json) }.write(),
        Entry { codec: 7, ..Entry::value(json) }.write(),
        Entry { compression: 2, ..Entry::value(json) }.write(),
        huge.write(),
        running_past,
        Entry::value(br#"{"name":"Ann"}"#).write(),
        br#"{"name":"Ann"}"#.to_vec(),
        vec![0; 100],
    ];
    for (count, bytes) in (1..).zip(&strange) {
        put(&mut connection, "shop/user:a", bytes);
        assert_eq!(users(&larder).get("a").await.unwrap(), None, "{bytes:x?}");
        assert_eq!(larder.stats().caches["user"].unreadable, count, "{bytes:x?}");
    }
    for bytes in &strange {
        put(&mut connection, "shop/user:a", bytes);
        users(&larder).get_or_load("a", || async { Ok::<_, Infallible>(user("Bob")) }).await.unwrap();
        assert_eq!(users(&larder).get("a").await.unwrap(), Some(user("Bob")), "{bytes:x?}");
    }
}

#[tokio::test]
async fn entries_are_stored_under_the_names_of_the_pages_table() {
    let server = Server::start();
    for row in table("| namespace | cache | schema | key |") {
        let [namespace, cache, schema, key, name] = row.as_slice() else { panic!("{row:?}") };
        server.command(&["FLUSHALL"]);
        let larder = connect(&server, namespace).await;
        let cache = larder.cache::<u32>(cache).schema(schema.parse().unwrap()).ttl(HOUR).build().unwrap();
        let key = || Key(serde_json::from_str(key).unwrap());
        cache.set(key(), &1).await.unwrap();
        let (entries, others) = entries_and_others(&server);
        assert_eq!(entries, [name.as_str()], "{row:?}");
        let [clear] = others.as_slice() else { panic!("{others:?}") };
        assert!(clear.starts_with("~clear.1:{"), "{clear}");
        assert_eq!(cache.ttl(key()).await.unwrap().map(|left| left == Expiry::Never), Some(false));
        server.command(&["SET", name, "2"]);
        assert_eq!(cache.get(key()).await.unwrap(), Some(2));
    }
}

#[tokio::test]
async fn everything_else_is_stored_under_the_reserved_names_of_the_pages_table() {
    let server = Server::start();
    for row in table("| what | namespace | called |") {
        let [what, namespace, called, name, kind] = row.as_slice() else { panic!("{row:?}") };
        server.command(&["FLUSHALL"]);
        let larder = connect(&server, namespace).await;
        match what.as_str() {
            "tag" => larder.tag(called).invalidate().await.unwrap(),
            "clear" => larder.cache::<User>(called).build().unwrap().clear().await.unwrap(),
            "epoch" => larder.tag("t").invalidate().await.unwrap(),
            "lease" => {
                let (schema, key) = if namespace.is_empty() { (0, "123") } else { (2, "{7}") };
                let cache = larder.cache::<User>("user").schema(schema).ttl(HOUR).build().unwrap();
                cache.set(key, &user("Ann")).await.unwrap();
                assert!(names(&server).contains(called), "{:?}", names(&server));
                let refresh = cache.refresh(key, |_| std::future::pending::<Result<User, Infallible>>());
                tokio::select! {
                    _ = refresh => panic!("its loader never ends"),
                    () = until("the lease is taken", async || names(&server).contains(name)) => {}
                }
            }
            "once" | "pulse" => {
                let cache = larder.cache::<User>("user").ttl(HOUR).build().unwrap();
                // Until the work has begun, a caller that is dropped removes the mark.
                let begun = Arc::new(AtomicBool::new(false));
                let begins = begun.clone();
                let work = move || {
                    begins.store(true, Ordering::Release);
                    std::future::pending::<Result<User, Infallible>>()
                };
                let marked = async || begun.load(Ordering::Acquire) && names(&server).contains(name);
                tokio::select! {
                    _ = cache.run_once("123", work) => panic!("the work never ends"),
                    () = until("it is marked", marked) => {}
                }
                let mark = server.query::<String>(&["GET", name.trim_end_matches(":pulse")]);
                assert_eq!(server.query::<String>(&["GET", name]), mark);
                assert!(is_version(&mark), "{mark}");
            }
            "lock" | "fence" => {
                let guard = larder.lock(called).acquire().await.unwrap();
                let lock = name.trim_end_matches(":fence");
                assert_eq!(names(&server), [lock.to_owned(), format!("{lock}:fence")]);
                let stored: String = server.query(&["GET", &format!("{lock}:fence")]);
                let (number, process) = stored.split_once(' ').unwrap();
                assert_eq!((number.len(), number), (16, &*guard.fence().get().to_string()));
                assert!(process.ends_with(&format!(":{}", std::process::id())), "{process}");
                let token: String = server.query(&["GET", lock]);
                assert!(is_version(&token), "{token}");
                std::mem::forget(guard);
            }
            "line" | "seen" => {
                let guard = larder.lock(called).acquire().await.unwrap();
                let waiter = tokio::spawn({
                    let lock = larder.lock(called);
                    async move { lock.acquire().await }
                });
                until("it is queued", async || names(&server).contains(name)).await;
                std::mem::forget((guard, waiter));
            }
            "origin" => {
                let lease = Duration::from_secs(1);
                let lock = larder.lock(called).ttl(lease).quarantine(lease);
                let refused = lock.try_acquire().await.unwrap_err().kind();
                let larder::ErrorKind::Quarantined { until } = refused else { panic!("{refused:?}") };
                let until = until.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
                let id = server.info("replication")["master_replid"].clone();
                assert_eq!(server.query::<String>(&["GET", name]), format!("{id} 1000 {until}"));
                support::lossy::take(&lock).await.release().await.unwrap();
                assert_eq!(server.query::<String>(&["GET", name]), format!("{id} 1000"));
            }
            "group" | "group state" => {
                let guard = larder.lock_group(called).locks(["a", "b:c"]).acquire().await.unwrap();
                let group = name.trim_end_matches(":state");
                let tokens: Vec<String> = server.query(&["ZRANGE", group, "0", "-1"]);
                assert!(tokens.len() == 1 && is_version(&tokens[0]), "{tokens:?}");
                let field = |field: &str| server.query::<String>(&["HGET", &format!("{group}:state"), field]);
                assert_eq!([field("na"), field("nb:c")], [tokens[0].clone(), tokens[0].clone()]);
                assert_eq!(field(&format!("s{}", tokens[0])), "a\nb:c");
                let (fence, process) = (guard.fence("a").unwrap(), std::process::id().to_string());
                let held = field(&format!("f{}", tokens[0]));
                assert!(held.starts_with(&format!("{fence} ")) && held.ends_with(&process), "{held}");
                std::mem::forget(guard);
            }
            "group line" => {
                let locks = larder.lock_group(called).locks(["a"]);
                let guard = locks.acquire().await.unwrap();
                let waiter = tokio::spawn(async move { locks.acquire().await });
                until("it waits", async || names(&server).contains(name)).await;
                std::mem::forget((guard, waiter));
            }
            "semaphore" | "number" => {
                std::mem::forget(larder.semaphore(called, 2).acquire_many(2).await.unwrap());
                let held = name.trim_end_matches(":number");
                let mut expected = vec![held.to_owned(), format!("{held}:number")];
                expected.sort();
                let found =
                    names(&server).into_iter().filter(|name| name.starts_with("~sem")).collect::<Vec<_>>();
                assert_eq!(found, expected);
                let number = format!("{held}:number");
                assert_eq!(server.query::<String>(&["HGET", &number, "permits"]), "2");
                assert_eq!(server.query::<String>(&["HGET", &number, "extra"]), "1");
                let tokens: Vec<String> = server.query(&["ZRANGE", held, "0", "-1"]);
                assert!(
                    tokens.len() == 1 && tokens[0].ends_with("0002") && is_version(&tokens[0]),
                    "{tokens:?}"
                );
            }
            "election" => {
                let leadership = larder.election(called).value("me").campaign().await.unwrap();
                let stored: String = server.query(&["GET", &format!("{name}:fence")]);
                assert_eq!(stored, format!("{} me", leadership.fence()));
                std::mem::forget(leadership);
            }
            "job" | "job record" => {
                let job = larder.job(called).every(HOUR);
                let run = job.run(async |_| Ok::<_, String>(())).await.unwrap();
                assert!(matches!(run, larder::lock::JobRun::Ran(Ok(()))));
            }
            "slot" => {
                let (job, slot) = called.split_once(':').unwrap();
                let run = larder.job(job).run_slot(slot, async |_| Ok::<_, String>(())).await.unwrap();
                assert!(matches!(run, larder::lock::JobRun::Ran(Ok(()))));
                assert_eq!(server.query::<String>(&["HGET", name, "done"]), "0");
            }
            "job lock" => {
                let job = larder.job(called).every(HOUR);
                let run = tokio::spawn(async move {
                    job.run(async |_| std::future::pending::<Result<(), String>>().await).await.map(|_| ())
                });
                until("it runs", async || names(&server).contains(name)).await;
                std::mem::forget(run);
            }
            "rw lock" => {
                let write = larder.rw_lock(called).write().await.unwrap();
                let number = format!("{name}:number");
                assert_eq!(server.query::<String>(&["HGET", &number, "fence"]), write.fence().to_string());
                std::mem::forget(write);
            }
            "queue" | "seen permit" => {
                let semaphore = larder.semaphore(called, 1);
                let permit = semaphore.acquire().await.unwrap();
                let waiter = tokio::spawn(async move { semaphore.acquire().await });
                until("it waits", async || names(&server).contains(name)).await;
                std::mem::forget((permit, waiter));
            }
            "keyed" => {
                let (semaphore, key) = called.split_once(':').unwrap();
                std::mem::forget(larder.semaphore(semaphore, 2).key(key).acquire().await.unwrap());
            }
            "writer" => {
                let fence = larder.lock("a").acquire().await.unwrap().fence();
                let users = users(&larder);
                assert!(users.set_fenced("123", &user("Ann"), fence).await.unwrap());
                assert_eq!(server.query::<String>(&["GET", name]), fence.get().to_string());
            }
            "limit" => {
                let (limiter, key) = called.split_once(':').unwrap();
                // The layout itself is read in limits_wire.rs.
                let limiter = larder.rate_limiter(limiter, Quota::per_hour(90)).unwrap();
                assert!(limiter.allow(key).await.unwrap());
                assert_eq!(stored(&mut raw(&server), name).len(), 29);
            }
            "processes" => {
                let builder = Larder::builder().url(server.url()).namespace(namespace).presence("web-3");
                let announced = builder.connect().await.unwrap();
                until("the process has announced itself", async || names(&server).contains(name)).await;
                let listed = server.query::<Vec<String>>(&["ZRANGE", name, "0", "-1"]);
                let record = stored(&mut raw(&server), &format!("{name}:{}", listed[0]));
                let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
                for field in ["name", "host", "pid", "version", "ids", "at", "uptime", "counters"] {
                    assert!(
                        record.get(field).is_some() && PAGE.contains(&format!("`{field}`")),
                        "{field}: {record}"
                    );
                }
                assert_eq!(
                    (&record["name"], &record["ids"][0]),
                    (&"web-3".into(), &listed[0].as_str().into())
                );
                std::mem::forget(announced);
            }
            "limit in a group" => {
                let (group, called) = called.split_once("`, `").unwrap();
                let (limiter, key) = called.split_once(':').unwrap();
                let limiter = larder.rate_limiter(limiter, Quota::per_hour(90)).unwrap();
                assert!(limiter.in_group(group).unwrap().allow(key).await.unwrap());
            }
            other => panic!("{other}"),
        }
        assert!(names(&server).contains(name), "{row:?}: {:?}", names(&server));
        assert_eq!(&server.query::<String>(&["TYPE", name]), kind);
        assert!(server.query::<i64>(&["PTTL", name]) > 0, "{row:?} expires");
        if ["clear", "tag", "epoch"].contains(&what.as_str()) {
            standing(&mut raw(&server), name);
        }
        if what == "lease" {
            let claim = String::from_utf8(stored(&mut raw(&server), name)).unwrap();
            let (token, nonce) = claim.split_at(16);
            assert!(is_version(token) && is_version(nonce), "{claim}");
            let entry = Entry::read(&stored(&mut raw(&server), called));
            assert_eq!(nonce, format!("{:016x}", entry.nonce), "it names the value that is refreshed");
        }
    }
}

#[tokio::test]
async fn a_version_outlives_what_carries_it() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    // The versions of the tag and of the cache.
    let kept = || {
        ["~tag.1:{shop/t}", "~clear.1:{shop/user}"].map(|name| {
            let left = server.query::<i64>(&["PTTL", name]) as f64 / 86_400_000.0;
            // Less than a quarter of an hour has passed.
            (left * 100.0).ceil() / 100.0
        })
    };
    let ann = user("Ann");
    users(&larder).set("a", &ann).tag("t").await.unwrap();
    assert_eq!(kept(), [2.0; 2]);
    users(&larder).set("a", &ann).ttl(36 * HOUR).tag("t").await.unwrap();
    assert_eq!(kept(), [2.0; 2], "more than one span is left");
    let stale = larder.cache::<User>("user").ttl(36 * HOUR).stale_for(36 * HOUR).build().unwrap();
    stale.set("a", &ann).tag("t").await.unwrap();
    assert_eq!(kept(), [6.0; 2], "twice the time that it may be served, as stale or not");
    users(&larder).set("a", &ann).no_expiry().tag("t").await.unwrap();
    assert_eq!(kept(), [60.0; 2]);
    larder.tag("t").invalidate().await.unwrap();
    users(&larder).clear().await.unwrap();
    assert_eq!(kept(), [2.0; 2]);
}

#[tokio::test]
async fn distinct_entries_never_meet_on_the_server() {
    let server = Server::start();
    let nasty = [
        "",
        ":",
        "a",
        "a:b",
        "a%3Ab",
        "a%253Ab",
        "%",
        "%25",
        "{",
        "%7B",
        "{a}",
        "}{",
        "~tag.1:{x}",
        "@1:a",
        "1:a",
        "/",
        "\n",
        "%0A",
        "\u{85}",
        "%C2%85",
        "\u{e9}",
        "e\u{301}",
        " ",
        "  ",
        "A",
        "shop/user:a",
    ];
    let mut wanted: BTreeMap<String, u32> = BTreeMap::new();
    let mut caches = Vec::new();
    for namespace in ["", "a", "a.b", "shop", "user"] {
        let larder = connect(&server, namespace).await;
        for (name, schema) in [("a", 0), ("a", 1), ("a", 11), ("a.b", 0), ("user", 0), ("b", 1)] {
            let cache: Cache<u32> = larder.cache(name).schema(schema).ttl(HOUR).build().unwrap();
            caches.push((format!("{namespace} {name} {schema}"), cache));
        }
    }
    let mut next = 0;
    for (what, cache) in &caches {
        let entries: Vec<(&str, u32)> = nasty
            .iter()
            .map(|key| {
                (*key, {
                    next += 1;
                    next
                })
            })
            .collect();
        cache.set_many(entries.iter().map(|(key, value)| (*key, value))).await.unwrap();
        wanted.extend(entries.iter().map(|(key, value)| (format!("{what} {key:?}"), *value)));
    }
    assert_eq!(entries_and_others(&server).0.len(), wanted.len());
    for (what, cache) in &caches {
        for (key, found) in nasty.iter().zip(cache.get_many(nasty).await.unwrap()) {
            let what = format!("{what} {key:?}");
            assert_eq!(found, Some(wanted[&what]), "{what}");
        }
    }
}

#[tokio::test]
async fn distinct_tuples_never_meet_on_the_server() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let cache: Cache<u32> = larder.cache("page").ttl(HOUR).build().unwrap();
    let parts = ["", ":", "a", "a:", ":a", "%3A", "a%3A", "{", "%"];
    let mut next = 0;
    for a in parts {
        for b in parts {
            next += 1;
            cache.set((a, b), &next).await.unwrap();
        }
    }
    assert_eq!(entries_and_others(&server).0.len(), usize::try_from(next).unwrap());
    next = 0;
    for a in parts {
        for b in parts {
            next += 1;
            assert_eq!(cache.get((a, b)).await.unwrap(), Some(next), "{a} {b}");
        }
    }
}

#[tokio::test]
async fn a_value_cut_anywhere_or_with_any_byte_changed_is_a_miss() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let mut connection = raw(&server);
    for (cache, format, tag) in
        [("json", Format::Json, ""), ("packed", Format::MessagePack, ""), ("tagged", Format::Json, "t")]
    {
        let builder = larder.cache::<User>(cache).ttl(HOUR).format(format);
        let users = if tag.is_empty() { builder } else { builder.compress_above(10) }.build().unwrap();
        let ann = user(&"Ann ".repeat(8));
        let set = users.set("a", &ann);
        if tag.is_empty() { set.await } else { set.tag(tag).await }.unwrap();
        let name = format!("shop/{cache}:a");
        let whole = stored(&mut connection, &name);
        assert!(users.get("a").await.unwrap().is_some());
        let cuts = (0..whole.len()).map(|length| whole[..length].to_vec());
        let flips = (0..whole.len()).flat_map(|at| {
            let whole = &whole;
            [0x01, 0x80, 0xFF].map(move |bits| {
                let mut bytes = whole.clone();
                bytes[at] ^= bits;
                bytes
            })
        });
        let longer = [[&whole[..], &[0]].concat()];
        let mut unreadable = 0;
        for bytes in cuts.chain(flips).chain(longer) {
            put(&mut connection, &name, &bytes);
            assert_eq!(users.get("a").await.unwrap(), None, "{bytes:x?}");
            // The empty string stands for a missing key.
            unreadable += u64::from(!bytes.is_empty());
            assert_eq!(larder.stats().caches[cache].unreadable, unreadable, "{bytes:x?}");
            // Whatever they return, they must not fail.
            users.exists("a").await.unwrap();
            users.ttl("a").await.unwrap();
            users.touch("a", HOUR).await.unwrap();
            unreadable = larder.stats().caches[cache].unreadable;
        }
        put(&mut connection, &name, &whole);
        assert!(users.get("a").await.unwrap().is_some());
    }
}

/// Any tags and any payload, behind a correct checksum.
fn sealed() -> impl Strategy<Value = Vec<u8>> {
    let packed = prop_oneof![
        8 => (0u8..3, 0u8..2, 0u8..3).prop_map(|(kind, compression, codec)| {
            // Mostly values.
            kind.saturating_sub(1) << 6 | (codec & compression & 1) << 5 | compression << 3 | codec
        }),
        1 => any::<u8>(),
    ];
    let count = prop_oneof![4 => 0u8..4, 1 => any::<u8>()];
    let clear = prop_oneof![3 => Just(0), 3 => Just(9), 1 => any::<u64>()];
    let fresh_until = prop_oneof![3 => Just(0u64), 1 => Just(1), 1 => Just((1 << 48) - 1)];
    let tag = |version: u64, length: u8, text: Vec<u8>| {
        let mut bytes = version.to_be_bytes().to_vec();
        bytes.push(length);
        bytes.extend(text);
        bytes
    };
    let known = tag(255, 1, b"t".to_vec());
    let tags = prop_oneof![
        4 => Just(known),
        1 => (any::<u64>(), any::<u8>(), collection::vec(any::<u8>(), 0..40)).prop_map(move |(v, l, t)| tag(v, l, t)),
        1 => "\\PC{0,60}".prop_map(move |text| {
            tag(255, u8::try_from(text.len().min(255)).unwrap(), text.into_bytes())
        }),
    ];
    let number =
        prop_oneof![any::<u32>().prop_map(|number| number.to_string().into_bytes()), Just(b"7".to_vec())];
    let packed_number = any::<u32>().prop_map(|number| rmp_serde::to_vec(&number).unwrap());
    let plain = prop_oneof![number, packed_number, collection::vec(any::<u8>(), 0..20)];
    let payload = (plain, prop_oneof![4 => Just(None), 1 => any::<u32>().prop_map(Some)], any::<bool>())
        .prop_map(|(plain, length, compressed)| {
            if !compressed {
                return plain;
            }
            let length = length.unwrap_or(u32::try_from(plain.len()).unwrap());
            [&length.to_be_bytes()[..], &lz4_flex::block::compress(&plain)].concat()
        });
    (packed, count, clear, fresh_until, collection::vec(tags, 0..5), payload).prop_map(
        |(packed, count, clear, fresh_until, tags, payload)| {
            let mut bytes =
                Entry { clear, fresh_until, ..Entry::value(&[tags.concat(), payload].concat()) }.write();
            (bytes[2], bytes[3]) = (packed, count);
            let crc = Entry::crc(&bytes).to_be_bytes();
            bytes[36..40].copy_from_slice(&crc);
            bytes
        },
    )
}

#[test]
fn any_bytes_behind_a_right_checksum_are_never_a_wrong_value() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut connection = raw(&server);
    put(&mut connection, "~tag.1:{shop/t}", b"00000000000000ff");
    put(&mut connection, "~clear.1:{shop/number}", b"0000000000000009");
    let larder = runtime.block_on(connect(&server, "shop"));
    let numbers: Cache<u32> = larder.cache("number").ttl(HOUR).build().unwrap();
    let connection = std::cell::RefCell::new(connection);
    let seen = std::cell::RefCell::new([0; 3]);
    let mut runner = TestRunner::new(Config { cases: 4000, failure_persistence: None, ..Config::default() });
    let held = runner.run(&sealed(), |bytes| {
        put(&mut connection.borrow_mut(), "shop/number:a", &bytes);
        let unreadable = larder.stats().caches["number"].unreadable;
        let (found, many) = runtime.block_on(async {
            let found = numbers.get("a").await.unwrap();
            let unreadable = larder.stats().caches["number"].unreadable - unreadable;
            // Whatever they return, they must not fail.
            numbers.exists("a").await.unwrap();
            numbers.ttl("a").await.unwrap();
            let many = numbers.get_many(["a"]).await.unwrap();
            ((found, unreadable), many)
        });
        let wanted = Entry::classify(&bytes, 9, &BTreeMap::from([("t", 255)]));
        prop_assert_eq!(&many, &[found.0]);
        let (found, place) = match found {
            (Some(value), 0) => (Served::Value(value), 0),
            (None, 0) => (Served::Nothing, 1),
            _ => (Served::Unreadable, 2),
        };
        seen.borrow_mut()[place] += 1;
        prop_assert_eq!(found, wanted, "{:x?}", bytes);
        Ok(())
    });
    held.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(seen.borrow().iter().all(|count| *count > 50), "all of it was tried: {seen:?}");
}

#[tokio::test]
async fn a_fill_is_a_placeholder_with_versions_that_any_program_can_invalidate() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let users = users(&larder);
    let (name, url) = ("shop/user:a", server.url());
    // A loader that looks at the server, and then changes the name as another program would.
    let load = async |tag: Option<&str>, interference: Option<redis::Cmd>| {
        let url = url.clone();
        let own_tag = tag.map(str::to_owned);
        let loader = move || async move {
            let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
            let seen = stored(&mut connection, name);
            let left: i64 = redis::cmd("PTTL").arg(name).query(&mut connection).unwrap();
            let clear = standing(&mut connection, "~clear.1:{shop/user}");
            let tags: Vec<(u64, String)> = own_tag
                .into_iter()
                .map(|tag| (standing(&mut connection, &format!("~tag.1:{{shop/{tag}}}")), tag))
                .collect();
            if let Some(interference) = interference {
                interference.exec(&mut connection).unwrap();
            }
            assert!(left > 0 && left <= 3000, "{left}");
            assert_eq!(seen.len(), 40 + tags.iter().map(|(_, tag)| 9 + tag.len()).sum::<usize>());
            let entry = Entry::read(&seen);
            let (nonce, written_at) = (entry.nonce, entry.written_at);
            assert_eq!(entry, Entry { kind: 2, nonce, written_at, clear, tags, ..Entry::value(b"") });
            assert!(nonce != 0 && written_at > 1_700_000_000_000);
            Ok::<_, Infallible>(user("loaded"))
        };
        let load = users.get_or_load("a", loader);
        let loaded = match tag {
            None => load.await,
            Some(tag) => load.tag(tag).await,
        };
        assert_eq!(loaded.unwrap(), user("loaded"));
    };
    for tag in [None, Some("team")] {
        server.command(&["DEL", name]);
        load(tag, None).await;
        let entry = Entry::read(&stored(&mut raw(&server), name));
        assert_eq!(entry.plain(), br#"{"name":"loaded","age":30}"#);
        assert_eq!(entry.clear, standing(&mut raw(&server), "~clear.1:{shop/user}"));
        assert_eq!(entry.tags.len(), usize::from(tag.is_some()));
        assert!(entry.load_micros > 0);
    }

    let mut theirs = redis::cmd("SET");
    theirs.arg(name).arg(br#"{"name":"theirs","age":1}"#);
    let mut delete = redis::cmd("DEL");
    delete.arg(name);
    let placeholder = Entry { kind: 2, nonce: 7, ..Entry::value(b"") };
    let mut foreign = redis::cmd("SET");
    foreign.arg(name).arg(placeholder.write());
    for (command, left) in [
        (theirs, Some(&br#"{"name":"theirs","age":1}"#[..])),
        (delete, None),
        (foreign.clone(), Some(&placeholder.write()[..])),
        (redis::cmd("FLUSHALL"), None),
    ] {
        server.command(&["DEL", name]);
        load(None, Some(command)).await;
        let found: Option<Vec<u8>> = server.query(&["GET", name]);
        assert_eq!(found.as_deref(), left);
    }
    assert_eq!(larder.stats().caches["user"].fills_invalidated, 4);

    // A failed load removes its own placeholder.
    users.get_or_load("a", || async { Err::<User, _>("no") }).await.unwrap_err();
    until("the placeholder is gone", async || server.query::<i64>(&["EXISTS", name]) == 0).await;
}

#[tokio::test]
async fn another_programs_placeholder_is_waited_for_until_it_is_replaced_expires_or_is_invalid() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let users = users(&larder);
    let name = "shop/user:a";
    let placeholder = Entry { kind: 2, nonce: 7, ..Entry::value(b"") };
    put(&mut raw(&server), name, &placeholder.write());
    let wait = async {
        let load = users.get_or_load("a", || async { Err::<User, _>("loaded beside somebody else") });
        assert_eq!(load.await.unwrap(), user("Ann"));
    };
    let replace = async {
        until("somebody waits", async || larder.stats().caches["user"].misses == 1).await;
        put(&mut raw(&server), name, &Entry::value(br#"{"name":"Ann","age":30}"#).write());
    };
    tokio::join!(wait, replace);

    // A placeholder whose loader died, and a placeholder from before a clear.
    for (invalid, kept) in [(placeholder.clone(), "300"), (Entry { clear: 1, ..placeholder }, "3600000")] {
        let mut connection = raw(&server);
        put(&mut connection, name, &invalid.write());
        server.command(&["PEXPIRE", name, kept]);
        let loader = move || async move {
            assert_ne!(Entry::read(&stored(&mut connection, name)).nonce, 7);
            Ok::<_, Infallible>(user("mine"))
        };
        assert_eq!(users.get_or_load("a", loader).await.unwrap(), user("mine"));
        assert_eq!(users.get("a").await.unwrap(), Some(user("mine")));
    }
}

#[tokio::test]
async fn a_placeholder_and_a_refresh_claim_are_renewed_while_their_loader_runs() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let users = users(&larder);
    // Returns a loader that waits until the claim of this name has been renewed.
    let renewed = |name: &'static str| {
        let url = server.url();
        async move {
            let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
            let mut last = i64::MAX;
            loop {
                let left: i64 = redis::cmd("PTTL").arg(name).query(&mut connection).unwrap();
                assert!(left > 1000 && left <= 3000, "{left}");
                if left > last {
                    break;
                }
                last = left;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok::<_, Infallible>(user("loaded"))
        }
    };
    let (fill, claim) = (renewed("shop/user:a"), renewed("~lease.2:{shop/user:a}"));
    users.get_or_load("a", move || fill).await.unwrap();
    users.refresh("a", move |_| claim).await.unwrap();
    assert_eq!(larder.stats().caches["user"].fills_invalidated, 0);
    assert_eq!(entries_and_others(&server).0, ["shop/user:a"]);
    assert_eq!(server.query::<u64>(&["EXISTS", "~lease.2:{shop/user:a}"]), 0);
}

#[tokio::test]
async fn a_refresh_is_a_claim_beside_the_value_that_any_program_can_invalidate() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let users = larder.cache::<User>("user").ttl(HOUR).stale_for(HOUR).build().unwrap();
    let (name, claim, url) = ("shop/user:a", "~lease.2:{shop/user:a}", server.url());
    // Refreshes a stale value, and returns what was stored before and afterwards.
    let load = async |interference: Option<redis::Cmd>| {
        users.set("a", &user("Ann")).await.unwrap();
        assert!(users.expire("a").await.unwrap());
        let before = stored(&mut raw(&server), name);
        let (url, old) = (url.clone(), before.clone());
        let loader = move || async move {
            let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
            assert_eq!(stored(&mut connection, name), old, "it stays");
            assert_eq!(stored(&mut connection, claim).len(), 32);
            let left: i64 = redis::cmd("PTTL").arg(claim).query(&mut connection).unwrap();
            assert!(left > 0 && left <= 3000, "{left}");
            if let Some(interference) = interference {
                interference.exec(&mut connection).unwrap();
            }
            Ok::<_, Infallible>(user("loaded"))
        };
        assert_eq!(users.get_or_load("a", loader).await.unwrap(), user("loaded"));
        (before, server.query::<Option<Vec<u8>>>(&["GET", name]))
    };
    let (_, after) = load(None).await;
    assert_eq!(Entry::read(&after.unwrap()).plain(), br#"{"name":"loaded","age":30}"#);
    assert_eq!(server.query::<u64>(&["EXISTS", claim]), 0);

    let command = |words: &[&str]| redis::cmd(words[0]).arg(&words[1..]).take();
    let theirs = r#"{"name":"theirs","age":1}"#;
    let (_, after) = load(Some(command(&["SET", name, theirs]))).await;
    assert_eq!(after.as_deref(), Some(theirs.as_bytes()));
    let (_, after) = load(Some(command(&["DEL", name]))).await;
    assert_eq!(after, None);
    // Taken by another client, or lost: the old value stays.
    for interference in [command(&["SET", claim, "00000000000000ab", "PX", "3000"]), command(&["DEL", claim])]
    {
        let (before, after) = load(Some(interference)).await;
        assert_eq!(after.as_ref(), Some(&before));
    }
    assert_eq!(larder.stats().caches["user"].fills_invalidated, 4);
}

#[tokio::test]
async fn locks_tags_and_limits_of_distinct_namespaces_never_meet() {
    let server = Server::start();
    let (none, shop) = (connect(&server, "").await, connect(&server, "shop").await);
    let guard = none.lock("shop/reports").acquire().await.unwrap();
    assert!(shop.lock("reports").try_acquire().await.unwrap().is_some());
    guard.release().await.unwrap();

    users(&shop).set("a", &user("Ann")).tag("team").await.unwrap();
    none.tag("shop/team").invalidate().await.unwrap();
    assert_eq!(users(&shop).get("a").await.unwrap(), Some(user("Ann")));

    let api = |larder: &Larder| larder.rate_limiter("api", Quota::per_hour(1)).unwrap();
    assert!(api(&none).allow("a").await.unwrap() && api(&shop).allow("a").await.unwrap());
}

#[tokio::test]
async fn a_lock_with_an_empty_name_works_on_a_cluster_too() {
    let larder = patient().url(support::cluster().url()).connect().await.unwrap();
    larder.lock("").try_acquire().await.unwrap().unwrap().release().await.unwrap();
}
