//! Encodes a program's values to stored bytes, and decodes them.
//!
//! Writing follows the cache's [`Format`]; reading follows the bytes. So a cache reads every value that larder has
//! written under its names, whatever the format was then. Bytes that fail a check are a miss with a reason, never a
//! panic and never a wrong value.

mod checked;
mod format;
#[cfg(feature = "admin")]
mod inspect;
mod raw;
mod verify;

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::envelope::{self, Codec, Envelope, EnvelopeKind, PayloadCompression, TagVersion};
use crate::error::{Error, ErrorKind, Result};

pub use format::Format;
pub(crate) use format::check;
#[cfg(feature = "admin")]
pub(crate) use inspect::{encoded, payload_of};

/// What a cache can hold. Every type with these bounds is one; there is nothing to implement.
///
/// Wrap values that are expensive to clone in [`Arc`](std::sync::Arc).
pub trait Value: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static> Value for T {}

/// Encodes a cache's values.
#[derive(Debug)]
pub(crate) struct Encoder {
    format: Format,
    compress_above: Option<usize>,
    max_bytes: usize,
    /// Whether each value is decoded again before it is stored.
    verify: bool,
    /// The size of the last value. Reserving it at once saves growing the buffer from nothing.
    room: AtomicUsize,
}

/// The envelope's fields of one write.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteStamp {
    pub(crate) nonce: u64,
    pub(crate) written_at: u64,
    /// 0 means fresh until it expires.
    pub(crate) fresh_until: u64,
    /// 0 means that the envelope does not say.
    pub(crate) expires_at: u64,
    pub(crate) load_cost: u32,
    pub(crate) clear_version: u64,
    pub(crate) tags: Vec<TagVersion>,
}

impl WriteStamp {
    fn envelope(self, kind: EnvelopeKind, codec: Codec) -> Envelope {
        Envelope {
            kind,
            codec,
            compression: PayloadCompression::None,
            nonce: self.nonce,
            written_at: self.written_at,
            fresh_until: self.fresh_until,
            expires_at: self.expires_at,
            load_cost: self.load_cost,
            clear_version: self.clear_version,
            tags: self.tags,
        }
    }
}

/// Encodes a known absence.
pub(crate) fn absence(stamp: WriteStamp) -> Vec<u8> {
    without_payload(EnvelopeKind::Absence, stamp)
}

/// Encodes the placeholder of a fill, whose token is the stamp's nonce. These exact bytes are stored under the key
/// until the fill commits. They carry the versions that were read before the load, so a placeholder that was
/// invalidated since is not waited for.
pub(crate) fn placeholder(stamp: WriteStamp) -> Vec<u8> {
    without_payload(EnvelopeKind::Placeholder, stamp)
}

fn without_payload(kind: EnvelopeKind, stamp: WriteStamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(envelope::HEADER);
    stamp.envelope(kind, Codec::Json).begin(&mut out);
    envelope::seal(&mut out);
    out
}

/// The end of a value, as its envelope says it, in the server's milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryTimes {
    /// Fresh until then, and kept for longer.
    FreshUntil(u64),
    /// Expires then.
    ExpiresAt(u64),
}

/// Copies a value under this nonce and with another end. `None` if the bytes have no envelope.
pub(crate) fn restamped(bytes: &[u8], nonce: u64, ends: EntryTimes) -> Option<Vec<u8>> {
    let (mut envelope, payload) = Envelope::parse(bytes).ok()?;
    envelope.nonce = nonce;
    (envelope.fresh_until, envelope.expires_at) = match ends {
        EntryTimes::FreshUntil(end) => (end, 0),
        EntryTimes::ExpiresAt(end) => (0, end),
    };
    let mut out = Vec::with_capacity(bytes.len());
    envelope.begin(&mut out);
    out.extend_from_slice(payload);
    envelope::seal(&mut out);
    Some(out)
}

impl Encoder {
    pub(crate) fn new(format: Format, compress_above: Option<usize>, max_bytes: usize) -> Self {
        Self { format, compress_above, max_bytes, verify: false, room: AtomicUsize::new(128) }
    }

    /// Sets whether each value is decoded again and compared before it is stored.
    pub(crate) fn verifying(self, verify: bool) -> Self {
        Self { verify, ..self }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn encode<V>(&self, value: &V, stamp: WriteStamp) -> Result<Vec<u8>>
    where
        V: Serialize + DeserializeOwned + 'static,
    {
        // A little more than the last value: values of one kind differ by a few digits.
        let mut out = Vec::with_capacity(self.room.load(Relaxed) + 32);
        let Some(codec) = self.format.codec() else {
            format::write(Codec::Json, value, &mut out)?;
            self.check_size(out.len())?;
            self.verify(value, &out)?;
            return Ok(out);
        };
        let mut envelope = stamp.envelope(EnvelopeKind::Value, codec);
        envelope.begin(&mut out);
        let payload_start = out.len();
        format::write(codec, value, &mut out)?;
        let payload = out.get(payload_start..).unwrap_or_default();
        self.check_size(payload.len())?;
        self.verify(value, payload)?;
        // Capped: after one unusually large value every later one would reserve as much.
        self.room.store(out.len().min(64 * 1024), Relaxed);

        if self.compress_above.is_some_and(|threshold| payload.len() > threshold)
            && let Some(smaller) = format::compress(payload)
        {
            envelope.compression = PayloadCompression::Lz4;
            out.clear();
            envelope.begin(&mut out);
            out.extend_from_slice(&smaller);
        }
        envelope::seal(&mut out);
        Ok(out)
    }

    /// Checks that `payload` decodes to the same value.
    fn verify<V>(&self, value: &V, payload: &[u8]) -> Result<()>
    where
        V: Serialize + DeserializeOwned + 'static,
    {
        if !self.verify {
            return Ok(());
        }
        let differs = |why: String| Err(Error::new(ErrorKind::Encode, why));
        let read: V = match format::read(self.format.payload_codec(), payload, None) {
            Ok(read) => read,
            Err(error) => {
                return differs(format!(
                    "the value cannot be read back from {:?}: {}",
                    self.format,
                    error.as_dyn()
                ));
            }
        };
        match (verify::fingerprint(value), verify::fingerprint(&read)) {
            (Ok(before), Ok(after)) if before == after => Ok(()),
            (Err(error), _) | (_, Err(error)) => {
                differs(format!("the value cannot be compared with its written form: {error}"))
            }
            _ => differs(format!("the value differs when it is read back from {:?}", self.format)),
        }
    }

    fn check_size(&self, bytes: usize) -> Result<()> {
        if bytes > self.max_bytes {
            return Err(Error::new(
                ErrorKind::ValueTooLarge,
                format!(
                    "the value takes {bytes} bytes, more than max_value_bytes ({}): store less, or raise the limit",
                    self.max_bytes
                ),
            ));
        }
        Ok(())
    }
}

/// The envelope's fields of a stored value; all zero if there is no envelope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) nonce: u64,
    pub(crate) written_at: u64,
    pub(crate) fresh_until: u64,
    pub(crate) expires_at: u64,
    pub(crate) load_cost: u32,
    pub(crate) clear_version: u64,
    pub(crate) tags: Vec<TagVersion>,
}

/// The place of a value within its stored bytes, and its encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Payload {
    start: usize,
    /// `None` for bare JSON.
    coding: Option<(Codec, PayloadCompression)>,
}

impl Payload {
    /// Whether there is no envelope.
    pub(crate) fn is_bare(self) -> bool {
        self.coding.is_none()
    }
}

/// The parts of stored bytes that are known before a value is decoded.
#[derive(Debug)]
pub(crate) struct OpenedEntry {
    pub(crate) kind: EnvelopeKind,
    pub(crate) meta: Meta,
    pub(crate) payload: Payload,
}

/// Parses the envelope and checks its checksum. The error is a reason, as in the metrics' label.
pub(crate) fn open(bytes: &[u8]) -> std::result::Result<OpenedEntry, &'static str> {
    if bytes.first() != Some(&envelope::MAGIC) {
        return Ok(OpenedEntry {
            kind: EnvelopeKind::Value,
            meta: Meta::default(),
            payload: Payload::default(),
        });
    }
    let (envelope, payload) = Envelope::parse(bytes).map_err(envelope::Damage::as_str)?;
    let payload =
        Payload { start: bytes.len() - payload.len(), coding: Some((envelope.codec, envelope.compression)) };
    let meta = Meta {
        nonce: envelope.nonce,
        written_at: envelope.written_at,
        fresh_until: envelope.fresh_until,
        expires_at: envelope.expires_at,
        load_cost: envelope.load_cost,
        clear_version: envelope.clear_version,
        tags: envelope.tags,
    };
    Ok(OpenedEntry { kind: envelope.kind, meta, payload })
}

/// Decodes the value of bytes that were [opened](open). `max_bytes` bounds the size of a decompressed value. The
/// error is a reason, as in the metrics' label.
pub(crate) fn decode<V: DeserializeOwned + 'static>(
    bytes: &Bytes,
    payload: Payload,
    max_bytes: usize,
) -> std::result::Result<V, &'static str> {
    let written = bytes.get(payload.start..).unwrap_or_default();
    let decoded = match payload.coding {
        None => return format::read_json(written).map_err(|_| "foreign"),
        Some((codec, PayloadCompression::None)) => format::read(codec, written, Some(bytes)),
        Some((codec, PayloadCompression::Lz4)) => {
            let written = format::decompress(written, max_bytes).map(Bytes::from)?;
            format::read(codec, &written, Some(&written))
        }
    };
    decoded.map_err(|error| error.reason())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Item {
        name: String,
        numbers: Vec<i64>,
        more: Option<bool>,
    }

    fn items() -> impl Strategy<Value = Item> {
        (any::<String>(), any::<Vec<i64>>(), any::<Option<bool>>()).prop_map(|(name, numbers, more)| Item {
            name,
            numbers,
            more,
        })
    }

    fn encoder(format: Format) -> Encoder {
        Encoder::new(format, None, 1 << 20)
    }

    fn read<V>(bytes: &[u8], max_bytes: usize) -> std::result::Result<V, &'static str>
    where
        V: DeserializeOwned + 'static,
    {
        decode(&Bytes::copy_from_slice(bytes), open(bytes)?.payload, max_bytes)
    }

    fn value(bytes: &[u8]) -> Option<Item> {
        read(bytes, 1 << 20).ok()
    }

    proptest! {
        #[test]
        fn every_format_gives_back_what_it_was_given(item in items(), threshold in proptest::option::of(0usize..400)) {
            for format in Format::ALL {
                let encoder = Encoder::new(*format, threshold, 1 << 20);
                let bytes = encoder.encode(&item, WriteStamp::default()).unwrap();
                prop_assert_eq!(value(&bytes), Some(item.clone()));
            }
        }

        #[test]
        fn damaged_values_are_unreadable(item in items(), cut: prop::sample::Index, at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = encoder(Format::Json).encode(&item, WriteStamp::default()).unwrap();
            prop_assert_eq!(value(&bytes[..cut.index(bytes.len())]), None);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(value(&bytes), None);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            let _ = read::<Item>(&bytes, 1 << 20);
        }

        #[test]
        #[cfg(feature = "compress")]
        fn foreign_compressed_payloads_never_panic(payload: Vec<u8>) {
            let envelope = Envelope {
                kind: EnvelopeKind::Value,
                codec: Codec::Json,
                compression: PayloadCompression::Lz4,
                nonce: 1,
                written_at: 0,
                fresh_until: 0,
                expires_at: 0,
                load_cost: 0,
                clear_version: 0,
                tags: Vec::new(),
            };
            let mut bytes = Vec::new();
            envelope.begin(&mut bytes);
            bytes.extend_from_slice(&payload);
            envelope::seal(&mut bytes);
            let _ = read::<Item>(&bytes, 1 << 20);
        }
    }

    #[test]
    fn bare_json_of_another_program_is_read() {
        let item = value(br#" {"name":"x","numbers":[1],"more":null,"unknown":1}"#);
        assert_eq!(item, Some(Item { name: "x".into(), numbers: vec![1], more: None }));
    }

    #[test]
    fn json_that_is_not_utf8_is_read_only_where_nothing_reads_its_text() {
        let json = |name: &[u8], unknown: &[u8]| {
            [br#"{"name":""#, name, br#"","numbers":[],"more":null,"unknown":""#, unknown, br#""}"#].concat()
        };
        let item = Item { name: "größe".into(), numbers: vec![], more: None };
        assert_eq!(value(&json("größe".as_bytes(), b"x")), Some(item.clone()));
        assert_eq!(value(&json("größe".as_bytes(), b"\xff")), Some(item));
        assert_eq!(value(&json(b"\xff", b"x")), None);
    }

    #[test]
    fn plain_writes_bare_json() {
        let item = Item { name: "x".into(), numbers: vec![], more: Some(true) };
        let bytes = encoder(Format::Plain).encode(&item, WriteStamp::default()).unwrap();
        assert_eq!(bytes, br#"{"name":"x","numbers":[],"more":true}"#);
    }

    #[test]
    fn a_value_above_the_limit_is_refused_and_says_both_sizes() {
        let encoder = Encoder::new(Format::Json, None, 10);
        let error = encoder.encode(&"x".repeat(9), WriteStamp::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueTooLarge);
        assert!(error.to_string().contains("11 bytes") && error.to_string().contains("10"), "{error}");
    }

    #[test]
    #[cfg(feature = "compress")]
    fn a_long_value_shrinks_and_one_that_would_not_is_left_alone() {
        let encoder = Encoder::new(Format::Json, Some(100), 1 << 20);
        let long = "larder ".repeat(1000);
        let bytes = encoder.encode(&long, WriteStamp::default()).unwrap();
        assert!(bytes.len() < long.len() / 10, "{}", bytes.len());
        assert_eq!(read::<String>(&bytes, 1 << 20), Ok(long));

        let noise: Vec<u64> = (0..100u64).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
        let bytes = encoder.encode(&noise, WriteStamp::default()).unwrap();
        assert_eq!(read::<Vec<u64>>(&bytes, 1 << 20), Ok(noise));
    }

    #[test]
    #[cfg(feature = "compress")]
    fn decompression_stops_at_the_maximum() {
        let encoder = Encoder::new(Format::Json, Some(0), 1 << 20);
        let bytes = encoder.encode(&"0".repeat(100_000), WriteStamp::default()).unwrap();
        assert_eq!(read::<String>(&bytes, 99_999), Err("too_large"));
    }

    #[test]
    fn a_placeholder_is_forty_bytes_and_nothing_at_a_glance() {
        let placeholder = placeholder(WriteStamp { nonce: 7, ..WriteStamp::default() });
        assert_eq!((placeholder.len(), envelope::HEADER), (40, 40));
        assert_eq!(envelope::glance(&placeholder), envelope::Glance::Nothing);
    }
}
