//! The envelope: the bytes before a value, which a reader checks before it uses the rest.
//!
//! A stored value is a header of 40 bytes, the versions of its tags, and the payload. The header says how to decode
//! the payload, when it was written in the server's time, and which write it was. A CRC-32 covers everything, so a
//! truncated or damaged value is a miss and never a wrong value. The first byte cannot begin JSON or any other UTF-8
//! text, which distinguishes bare JSON of other programs. All numbers are big-endian. docs/wire-format.md has the
//! same table for readers in other languages.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | 0x9A |
//! | 1 | layout version, 1 |
//! | 2 | kind (2 bits), whether 18–23 is an expiry (1), compression (2), codec (3), from the top |
//! | 3 | number of tags |
//! | 4–11 | nonce, random, never 0; for a placeholder its token |
//! | 12–17 | written at, ms since 1970 |
//! | 18–23 | fresh until, ms since 1970 (0: until it expires); or, by the bit in byte 2, when it expires |
//! | 24–27 | duration of its load, µs, at most 2³²−1 |
//! | 28–35 | the cache's clear version, 0: none |
//! | 36–39 | CRC-32 (IEEE) of all the other bytes |

use crc32fast::Hasher;

pub(crate) const MAGIC: u8 = 0x9A;
const LAYOUT: u8 = 1;
pub(crate) const HEADER: usize = 40;
const CHECKSUM: std::ops::Range<usize> = 36..40;

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EnvelopeKind {
    Value,
    /// The origin is known to have no such value.
    Absence,
    /// A load is under way. For readers nothing is stored yet.
    Placeholder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Json,
    MessagePack,
    /// The value's own bytes.
    Raw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PayloadCompression {
    None,
    Lz4,
}

/// A tag, with the version that it had when the data was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TagVersion {
    pub(crate) tag: String,
    pub(crate) version: u64,
}

/// The fields before the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) kind: EnvelopeKind,
    pub(crate) codec: Codec,
    pub(crate) compression: PayloadCompression,
    pub(crate) nonce: u64,
    /// Milliseconds since 1970, in the server's time.
    pub(crate) written_at: u64,
    /// Milliseconds since 1970, in the server's time; 0 means until it expires.
    pub(crate) fresh_until: u64,
    /// Milliseconds since 1970, in the server's time: when the entry expires unless it is touched. Only if
    /// `fresh_until` is 0; 0 means not known. A copy in a process ends then.
    pub(crate) expires_at: u64,
    /// Microseconds.
    pub(crate) load_cost: u32,
    pub(crate) clear_version: u64,
    pub(crate) tags: Vec<TagVersion>,
}

/// Why the bytes of an envelope cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    Truncated,
    Checksum,
    /// Written by a newer larder, or with a codec that this build leaves out.
    Unknown,
}

impl Damage {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Checksum => "checksum",
            Self::Unknown => "unknown_layout",
        }
    }
}

impl Envelope {
    /// Writes the header and the tags. Then append the payload and call [`seal`].
    pub(crate) fn begin(&self, out: &mut Vec<u8>) {
        let kind = match self.kind {
            EnvelopeKind::Value => 0,
            EnvelopeKind::Absence => 1,
            EnvelopeKind::Placeholder => 2,
        };
        let compression = match self.compression {
            PayloadCompression::None => 0,
            PayloadCompression::Lz4 => 1,
        };
        let codec = match self.codec {
            Codec::Json => 0,
            Codec::MessagePack => 1,
            Codec::Raw => 2,
        };
        let expires = u8::from(self.fresh_until == 0 && self.expires_at != 0);
        let tags = self.tags.iter().take(usize::from(u8::MAX));
        out.extend_from_slice(&[
            MAGIC,
            LAYOUT,
            kind << 6 | expires << 5 | compression << 3 | codec,
            u8::try_from(tags.len()).unwrap_or(u8::MAX),
        ]);
        out.extend_from_slice(&self.nonce.to_be_bytes());
        out.extend_from_slice(&six_bytes(self.written_at));
        out.extend_from_slice(&six_bytes(if expires == 1 { self.expires_at } else { self.fresh_until }));
        out.extend_from_slice(&self.load_cost.to_be_bytes());
        out.extend_from_slice(&self.clear_version.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        for TagVersion { tag, version } in tags {
            out.extend_from_slice(&version.to_be_bytes());
            out.push(u8::try_from(tag.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(tag.as_bytes());
        }
    }

    /// Splits stored bytes into the envelope and the payload.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), Damage> {
        let mut reader = EnvelopeReader(bytes);
        let [magic, layout, packed, tag_count] = reader.array()?;
        if magic != MAGIC || layout != LAYOUT {
            return Err(Damage::Unknown);
        }
        let nonce = u64::from_be_bytes(reader.array()?);
        let written_at = from_six_bytes(reader.array()?);
        let ends = from_six_bytes(reader.array()?);
        let (fresh_until, expires_at) = if packed >> 5 & 1 == 0 { (ends, 0) } else { (0, ends) };
        let load_cost = u32::from_be_bytes(reader.array()?);
        let clear_version = u64::from_be_bytes(reader.array()?);
        let checksum = u32::from_be_bytes(reader.array()?);
        // Check this before any field of variable length is used.
        if checksum != crc(bytes) {
            return Err(Damage::Checksum);
        }
        // Unpack the third byte, then read the tags.
        let kind = match packed >> 6 {
            0 => EnvelopeKind::Value,
            1 => EnvelopeKind::Absence,
            2 => EnvelopeKind::Placeholder,
            _ => return Err(Damage::Unknown),
        };
        let compression = match packed >> 3 & 3 {
            0 => PayloadCompression::None,
            1 => PayloadCompression::Lz4,
            _ => return Err(Damage::Unknown),
        };
        let codec = match packed & 7 {
            0 => Codec::Json,
            1 => Codec::MessagePack,
            2 => Codec::Raw,
            _ => return Err(Damage::Unknown),
        };
        let mut tags = Vec::with_capacity(usize::from(tag_count));
        for _ in 0..tag_count {
            let version = u64::from_be_bytes(reader.array()?);
            let [length] = reader.array()?;
            let tag = str::from_utf8(reader.take(usize::from(length))?).map_err(|_| Damage::Unknown)?;
            tags.push(TagVersion { tag: tag.to_owned(), version });
        }
        let envelope = Self {
            kind,
            codec,
            compression,
            nonce,
            written_at,
            fresh_until,
            expires_at,
            load_cost,
            clear_version,
            tags,
        };
        Ok((envelope, reader.0))
    }
}

/// Completes a value begun by [`Envelope::begin`]. The checksum is known only now, with the payload.
pub(crate) fn seal(bytes: &mut [u8]) {
    let checksum = crc(bytes).to_be_bytes();
    if let Some(place) = bytes.get_mut(CHECKSUM) {
        place.copy_from_slice(&checksum);
    }
}

/// Returns the nonce of bytes that have an envelope: bytes 4 to 11 in docs/wire-format.md.
pub(crate) fn nonce(bytes: &[u8]) -> Option<u64> {
    match bytes {
        [MAGIC, LAYOUT, _, _, rest @ ..] => rest.first_chunk().map(|nonce| u64::from_be_bytes(*nonce)),
        _ => None,
    }
}

/// What the first bytes of an entry say. Without the payload the checksum cannot be checked, so no more may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Glance {
    /// A placeholder, a known absence, an empty string or an unknown layout: nothing for a reader.
    Nothing,
    /// There is no envelope.
    Bare,
    Value {
        /// Whether the entry has tags, which must be compared before it is valid.
        tagged: bool,
        fresh_until: u64,
        clear_version: u64,
    },
}

pub(crate) fn glance(start: &[u8]) -> Glance {
    match start {
        [MAGIC, LAYOUT, packed, _, ..] if packed >> 6 != 0 => Glance::Nothing,
        [MAGIC, LAYOUT, packed, tags, rest @ ..] => {
            let mut reader = EnvelopeReader(rest);
            let mut read = || -> Result<_, Damage> {
                reader.take(14)?;
                let ends = from_six_bytes(reader.array()?);
                let fresh_until = if packed >> 5 & 1 == 0 { ends } else { 0 };
                reader.take(4)?;
                Ok((fresh_until, u64::from_be_bytes(reader.array()?)))
            };
            match read() {
                Ok((fresh_until, clear_version)) => {
                    Glance::Value { tagged: *tags > 0, fresh_until, clear_version }
                }
                Err(_) => Glance::Nothing,
            }
        }
        // An empty string, or a layout that this build cannot read.
        [] | [MAGIC, ..] => Glance::Nothing,
        _ => Glance::Bare,
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(bytes.get(..CHECKSUM.start).unwrap_or_default());
    hasher.update(bytes.get(CHECKSUM.end..).unwrap_or_default());
    hasher.finalize()
}

fn six_bytes(number: u64) -> [u8; 6] {
    let [_, _, rest @ ..] = number.min((1 << 48) - 1).to_be_bytes();
    rest
}

fn from_six_bytes([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

struct EnvelopeReader<'a>(&'a [u8]);

impl<'a> EnvelopeReader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Damage> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Damage::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Damage::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn envelopes() -> impl Strategy<Value = Envelope> {
        let kinds = prop_oneof![
            Just(EnvelopeKind::Value),
            Just(EnvelopeKind::Absence),
            Just(EnvelopeKind::Placeholder)
        ];
        let codecs = prop_oneof![Just(Codec::Json), Just(Codec::MessagePack)];
        let compressions = prop_oneof![Just(PayloadCompression::None), Just(PayloadCompression::Lz4)];
        let tag = ("\\PC{0,40}", any::<u64>()).prop_map(|(tag, version)| TagVersion { tag, version });
        let tags = proptest::collection::vec(tag, 0..4);
        let ends =
            prop_oneof![(0u64..1 << 48).prop_map(|at| (at, 0)), (1u64..1 << 48).prop_map(|at| (0, at))];
        let times = (0u64..1 << 48, ends);
        (kinds, codecs, compressions, any::<u64>(), times, any::<u32>(), any::<u64>(), tags).prop_map(
            |(
                kind,
                codec,
                compression,
                nonce,
                (written_at, (fresh_until, expires_at)),
                load_cost,
                clear_version,
                tags,
            )| {
                Envelope {
                    kind,
                    codec,
                    compression,
                    nonce,
                    written_at,
                    fresh_until,
                    expires_at,
                    load_cost,
                    clear_version,
                    tags,
                }
            },
        )
    }

    fn write(envelope: &Envelope, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        envelope.begin(&mut out);
        out.extend_from_slice(payload);
        seal(&mut out);
        out
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(envelope in envelopes(), payload: Vec<u8>) {
            let bytes = write(&envelope, &payload);
            prop_assert_eq!(Envelope::parse(&bytes), Ok((envelope, payload.as_slice())));
        }

        #[test]
        fn a_truncated_value_is_never_returned(envelope in envelopes(), payload: Vec<u8>, cut: prop::sample::Index) {
            let bytes = write(&envelope, &payload);
            let shorter = &bytes[..cut.index(bytes.len())];
            prop_assert!(Envelope::parse(shorter).is_err());
        }

        #[test]
        fn a_value_with_a_flipped_bit_is_never_returned(envelope in envelopes(), payload: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = write(&envelope, &payload);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Envelope::parse(&bytes).is_err());
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Envelope::parse(&bytes);
            let _ = glance(&bytes);
        }
    }

    #[test]
    fn bytes_without_an_envelope_are_not_taken_for_an_absence() {
        assert_eq!(glance(b""), Glance::Nothing);
        assert_eq!(glance(b"{}"), Glance::Bare);
    }
}
