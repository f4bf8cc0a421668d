//! The codec against redis-rs's parser, which is the reference.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use redis::Value;

use super::super::decode::Frame;
use super::super::error::WireError;
use super::super::reader::Reader;
use super::super::reply::Reply;
use super::super::request::Request;
use super::replies::{check, same};

/// What a server could send.
#[derive(Debug, Clone)]
enum Made {
    /// A line of its own: the kind, and what follows.
    Line(String),
    /// A string with its length before it: `$`, `!` or `=`.
    Text(char, Vec<u8>),
    /// An array or a set.
    List(char, Vec<Made>),
    Map(Vec<(Made, Made)>),
    /// An attribute and the value that it is about.
    About(Vec<(Made, Made)>, Box<Made>),
}

impl Made {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Line(line) => out.extend_from_slice(format!("{line}\r\n").as_bytes()),
            Self::Text(kind, text) => {
                out.extend_from_slice(format!("{kind}{}\r\n", text.len()).as_bytes());
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            Self::List(kind, parts) => {
                out.extend_from_slice(format!("{kind}{}\r\n", parts.len()).as_bytes());
                parts.iter().for_each(|part| part.encode(out));
            }
            Self::Map(pairs) => encode_pairs('%', pairs, out),
            Self::About(pairs, about) => {
                encode_pairs('|', pairs, out);
                about.encode(out);
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

fn encode_pairs(kind: char, pairs: &[(Made, Made)], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{kind}{}\r\n", pairs.len()).as_bytes());
    for (key, value) in pairs {
        key.encode(out);
        value.encode(out);
    }
}

fn lines() -> impl Strategy<Value = Made> {
    let words = "[ -~]{0,12}";
    prop_oneof![
        words.prop_map(|text| format!("+{text}")),
        Just("+OK".to_owned()),
        words.prop_map(|text| format!("-ERR {text}")),
        "(MOVED|NOSCRIPT|WRONGTYPE|NOPERM) [a-z0-9]{1,9}".prop_map(|text| format!("-{text}")),
        any::<i64>().prop_map(|number| format!(":{number}")),
        any::<f64>().prop_map(|number| format!(",{number}")),
        prop_oneof![Just(",inf"), Just(",-inf"), Just(",nan"), Just(",1e5")].prop_map(str::to_owned),
        "-?[0-9]{1,40}".prop_map(|digits| format!("({digits}")),
        prop_oneof![Just("#t"), Just("#f"), Just("_"), Just("$-1"), Just("*-1")].prop_map(str::to_owned),
    ]
    .prop_map(Made::Line)
}

fn texts() -> impl Strategy<Value = Made> {
    prop_oneof![
        vec(any::<u8>(), 0..40).prop_map(|text| Made::Text('$', text)),
        // What looks like the end of something.
        Just(Made::Text('$', b"\r\n$-1\r\n".to_vec())),
        "[ -~]{1,12}".prop_map(|text| Made::Text('!', format!("ERR {text}").into_bytes())),
        "[ -~]{0,12}".prop_map(|text| Made::Text('=', format!("txt:{text}").into_bytes())),
    ]
}

fn made() -> impl Strategy<Value = Made> {
    prop_oneof![lines(), texts()].prop_recursive(5, 24, 5, |inner| {
        let pairs = || vec((inner.clone(), inner.clone()), 0..3);
        prop_oneof![
            (prop_oneof![Just('*'), Just('~')], vec(inner.clone(), 0..5))
                .prop_map(|(kind, parts)| Made::List(kind, parts)),
            pairs().prop_map(Made::Map),
            (pairs(), inner.clone()).prop_map(|(pairs, about)| Made::About(pairs, Box::new(about))),
        ]
    })
}

fn frames(reader: &mut Reader) -> Result<Vec<Frame>, WireError> {
    let mut frames = Vec::new();
    reader.frames(|frame| frames.push(frame)).map(|()| frames)
}

/// The frames in what arrives in pieces.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Frame>, WireError> {
    let mut reader = Reader::default();
    let mut all = Vec::new();
    for piece in pieces {
        reader.feed(piece);
        all.extend(frames(&mut reader)?);
    }
    Ok(all)
}

fn reply(text: &str) -> Reply {
    match read([text.as_bytes()]).unwrap().as_slice() {
        [Frame::Reply(reply)] => reply.clone(),
        other => panic!("{other:?}"),
    }
}

fn refused(text: &str) -> String {
    read([text.as_bytes()]).unwrap_err().to_string()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_cut_at_any_byte_are_read_as_redis_rs_reads_them(made in made()) {
        let bytes = made.bytes();
        let theirs = redis::parse_redis_value(&bytes).unwrap();
        let whole = read([&*bytes]).unwrap();
        let [Frame::Reply(ours)] = whole.as_slice() else { panic!("{whole:?}") };
        prop_assert!(same(&theirs, ours), "{theirs:?} {ours:?}");
        for cut in 1..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let mut reader = Reader::default();
            reader.feed(first);
            prop_assert_eq!(frames(&mut reader).unwrap(), []);
            reader.feed(second);
            let frames = frames(&mut reader).unwrap();
            let [Frame::Reply(ours)] = frames.as_slice() else { panic!("{frames:?}") };
            prop_assert!(same(&theirs, ours), "cut at {cut}: {theirs:?} {ours:?}");
        }
        let one_by_one = read(bytes.chunks(1)).unwrap();
        prop_assert!(matches!(one_by_one.as_slice(), [Frame::Reply(ours)] if same(&theirs, ours)));
    }

    #[test]
    fn replies_that_follow_each_other_are_separated(all in vec(made(), 1..6), size in 1usize..40) {
        let each: Vec<Vec<u8>> = all.iter().map(Made::bytes).collect();
        let expected: Vec<Value> = each.iter().map(|one| redis::parse_redis_value(one).unwrap()).collect();
        let found = read(each.concat().chunks(size)).unwrap();
        prop_assert_eq!(found.len(), expected.len());
        for (theirs, ours) in expected.iter().zip(&found) {
            prop_assert!(matches!(ours, Frame::Reply(ours) if same(theirs, ours)), "{theirs:?} {ours:?}");
        }
    }

    #[test]
    fn requests_are_what_redis_rs_would_send(parts in vec(vec(any::<u8>(), 0..30), 1..6), size in 0usize..40_000) {
        let mut theirs = redis::cmd("SET");
        let mut ours = Request::new("SET");
        for part in &parts {
            theirs.arg(part);
            ours.push(part);
        }
        let value = bytes::Bytes::from(vec![b'v'; size]);
        theirs.arg(&*value).arg("PX").arg(1500);
        let ours = ours.value(&value).arg("PX").number(1500);
        let mut out = super::super::outgoing::Outgoing::default();
        ours.write_to(&mut out);
        prop_assert_eq!(drained(&mut out, size % 977 + 1), theirs.get_packed_command());
    }
}

/// What is in `out`, consumed in steps.
fn drained(out: &mut super::super::outgoing::Outgoing, step: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !out.is_empty() {
        let piece: Vec<u8> = out.slices().iter().flat_map(|slice| slice.iter().copied()).take(step).collect();
        bytes.extend_from_slice(&piece);
        out.consume(piece.len());
    }
    bytes
}

/// Changes a few bytes of valid frames, and cuts them into pieces.
fn mutate(cases: u32, rng: TestRng) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let changes =
        vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(b'\r'), Just(b'-')]), 0..4);
    let cases = (vec(made(), 1..3), changes, 0u8..50);
    runner
        .run(&cases, |(all, changes, size)| {
            let mut input =
                std::iter::once(size).chain(all.iter().flat_map(Made::bytes)).collect::<Vec<u8>>();
            for (place, byte) in changes {
                let place = 1 + place.index(input.len() - 1);
                input[place] = byte;
            }
            check(&input);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn what_a_fuzzer_starts_with_is_read_alike_or_refused() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seeds/replies");
    let mut count = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        check(&std::fs::read(seed.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 20, "{count} in {seeds}");
}

#[test]
fn mutated_frames_are_read_alike_or_refused_and_never_panic() {
    // The same cases each time; the long run takes others.
    mutate(2_000, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
}

#[test]
#[ignore = "long: cargo test --release -p larder --lib mutated_frames_for_long -- --ignored"]
fn mutated_frames_for_long() {
    let cases = std::env::var("LARDER_TEST_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    mutate(cases, TestRng::from_seed(RngAlgorithm::ChaCha, &rand::random::<[u8; 32]>()));
}

#[test]
fn pushes_are_separated_from_replies_also_inside_them() {
    let push = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
    let expected =
        Frame::Push(vec![Reply::Bulk("invalidate".into()), Reply::Array(vec![Reply::Bulk("k".into())])]);
    let bytes = format!("{push}+OK\r\n{push}");
    let frames = read(bytes.as_bytes().chunks(3)).unwrap();
    assert_eq!(frames.len(), 3);
    assert_eq!((&frames[0], &frames[2]), (&expected, &expected));
    // As Redis 6 sends it: between the elements of an array, and not one of them.
    for bytes in [format!("*2\r\n+a\r\n{push}+b\r\n"), format!("*2\r\n{push}+a\r\n+b\r\n")] {
        let frames = read(bytes.as_bytes().chunks(2)).unwrap();
        let reply = Reply::Array(vec![Reply::Simple("a".into()), Reply::Simple("b".into())]);
        assert_eq!(
            frames,
            [
                Frame::Push(vec![
                    Reply::Bulk("invalidate".into()),
                    Reply::Array(vec![Reply::Bulk("k".into())]),
                ]),
                Frame::Reply(reply)
            ]
        );
    }
}

#[test]
fn attributes_are_read_and_dropped() {
    let attribute = "|1\r\n+ttl\r\n*1\r\n:3600\r\n";
    assert_eq!(
        reply(&format!("{attribute}*2\r\n:1\r\n{attribute}:2\r\n")),
        Reply::Array(vec![Reply::Int(1), Reply::Int(2)])
    );
    assert_eq!(reply(&format!("|0\r\n{attribute}$1\r\nx\r\n")), Reply::Bulk("x".into()));
}

#[test]
fn what_is_no_reply_is_refused_with_the_reason() {
    for (text, why) in [
        ("HTTP/1.1 400 Bad Request\r\n", "begins with the byte 72"),
        ("\r\n", "begins with the byte 13"),
        ("$x\r\n", "no number"),
        ("$-2\r\n", "no number"),
        ("*-3\r\n", "no number"),
        ("$5\r\nhello!!", "longer than announced"),
        (":12a\r\n", "integer"),
        (":9223372036854775808\r\n", "integer"),
        ("#x\r\n", "boolean"),
        (",one\r\n", "double"),
        ("(12x\r\n", "big number"),
        ("=2\r\nab\r\n", "verbatim"),
        ("$?\r\n", "unknown length"),
        ("*?\r\n", "unknown length"),
        ("$536870913\r\n", "more than 536870912 bytes"),
        ("$99999999999999999999\r\n", "no number"),
        ("*134217729\r\n", "more than 134217728 elements"),
        (&"*1\r\n".repeat(33), "more than 32 deep"),
        (&format!("+{}", "x".repeat(70_000)), "a line of more than"),
    ] {
        let said = refused(text);
        assert!(said.contains(why), "{text:.40}: {said}");
    }
    assert!(matches!(reply(&format!("{}:1\r\n", "*1\r\n".repeat(32))), Reply::Array(_)));
}

#[test]
fn an_announced_length_costs_nothing_before_its_bytes_arrive() {
    let mut reader = Reader::default();
    reader.feed(b"*134217728\r\n$536870912\r\nabc");
    assert_eq!(frames(&mut reader).unwrap(), []);
    assert!(reader.room().1 < 1 << 20, "{:?}", reader.room());
}
