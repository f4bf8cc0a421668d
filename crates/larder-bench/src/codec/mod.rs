//! larder's codec of replies compared with that of the crate `redis-protocol`, in memory.
//!
//! Both get the same bytes in the pieces that one read of a socket returns, and hand out strings that share them.
//! larder's modules are included by path: they are private, and stay so.

use std::hint::black_box;

use bytes::BytesMut;
use redis_protocol::resp3::decode::complete::decode_bytes_mut;

use crate::figures::Findings;
use crate::item::Item;
use crate::lane::{Lane, Outcome};
use crate::machine::{self, Ticks};
use crate::rounds::{Flavour, compare};
use crate::table::{Table, interval, ratio, spread};

#[path = "../../../larder/src/store/redis"]
#[allow(dead_code, reason = "a part of the modules is used")]
mod store {
    #[path = "wire"]
    pub(crate) mod wire {
        mod decode;
        mod error;
        mod reader;
        mod reply;
        mod scan;

        #[path = "../../../../../larder-bench/src/codec/ours.rs"]
        pub(crate) mod ours;
    }
}

/// The room in larder's read buffer.
const PIECE: usize = 32 * 1024;
/// Replies that are decoded together.
const REPLIES: usize = 64;

pub(crate) fn run(rounds: usize) -> Outcome<Findings> {
    let began = Ticks::now();
    let json = serde_json::to_vec(&Item::new(0))?;
    let bulk = [format!("${}\r\n", json.len()).as_bytes(), &json, b"\r\n"].concat();
    let workloads = [
        ("`+OK`", b"+OK\r\n".to_vec()),
        ("a string of 1 KiB", bulk.clone()),
        ("an array of 100 strings of 1 KiB", [&b"*100\r\n"[..], &bulk.repeat(100)].concat()),
        ("an array of four integers", b"*4\r\n:1\r\n:99\r\n:1700000000000\r\n:0\r\n".to_vec()),
    ];
    let mut table =
        Table::new(&["reply", "larder, ns", "`redis-protocol`, ns", "its time / larder's", "95 % interval"]);
    for (name, reply) in workloads {
        eprintln!("codec: {name}");
        let stream = reply.repeat(REPLIES);
        let standings = compare(Flavour::CurrentThread, rounds, async |_| Ok(lanes(&stream)))?;
        let [ours, theirs] = standings.as_slice() else { return Err("two lanes were expected".into()) };
        let time = theirs.ratio.inverted(1.0);
        // A turn decodes several replies.
        let each = |rate: crate::statistics::Spread| spread(rate.inverted(1e9 / REPLIES as f64));
        table.row(&[name, &each(ours.rate), &each(theirs.rate), &ratio(time.median), &interval(time)]);
    }
    let mut findings = Findings::default();
    findings.add("codec", table.finish() + &machine::note(began, &format!("{rounds} rounds")));
    Ok(findings)
}

fn lanes(stream: &[u8]) -> Vec<Lane> {
    vec![lane("larder", stream, store::wire::ours::decode), lane("redis-protocol", stream, theirs)]
}

fn lane(name: &'static str, stream: &[u8], decode: fn(&[u8]) -> Outcome<usize>) -> Lane {
    let stream = stream.to_vec();
    Lane::new(name, 1, move |ids| {
        let stream = stream.clone();
        Box::pin(async move {
            for _ in ids {
                if decode(black_box(&stream))? != REPLIES {
                    return Err("a reply is missing".into());
                }
            }
            Ok(())
        })
    })
    .computing()
}

fn theirs(stream: &[u8]) -> Outcome<usize> {
    let (mut buffer, mut count) = (BytesMut::new(), 0);
    for piece in stream.chunks(PIECE) {
        buffer.reserve(PIECE);
        buffer.extend_from_slice(piece);
        while let Some((frame, ..)) = decode_bytes_mut(&mut buffer)? {
            black_box(frame);
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_read_all_replies() -> Outcome<()> {
        let stream = b"$2\r\nab\r\n*2\r\n:1\r\n+x\r\n".repeat(5_000);
        assert_eq!((store::wire::ours::decode(&stream)?, theirs(&stream)?), (10_000, 10_000));
        Ok(())
    }
}
