//! The codecs and the compression, each behind the feature that brings its crate.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::envelope::Codec;
use crate::error::{Error, ErrorKind, Result};

/// How a cache writes its values. Whatever is chosen, a cache reads them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Format {
    /// JSON behind larder's envelope. The default: a field added to a struct does not hurt readers of either age, and
    /// a person can read it.
    #[default]
    Json,
    /// MessagePack with named fields behind the envelope: as tolerant as JSON, and a struct of 1 KiB that is mostly text takes
    /// a third of the time to encode, two thirds to decode, and nine tenths of the bytes.
    #[cfg(feature = "msgpack")]
    MessagePack,
    /// Bare JSON without an envelope, for programs in other languages that read the same keys. Such a value carries no
    /// checksum and no versions, so tags cannot void it.
    Plain,
}

impl Format {
    #[cfg(test)]
    pub(crate) const ALL: &[Self] = &[
        Self::Json,
        Self::Plain,
        #[cfg(feature = "msgpack")]
        Self::MessagePack,
    ];

    /// The codec behind an envelope, or none where there is no envelope.
    pub(super) fn codec(self) -> Option<Codec> {
        match self {
            Self::Json => Some(Codec::Json),
            #[cfg(feature = "msgpack")]
            Self::MessagePack => Some(Codec::MessagePack),
            Self::Plain => None,
        }
    }
}

pub(super) fn json<V: Serialize>(value: &V, out: &mut Vec<u8>) -> Result<()> {
    serde_json::to_writer(out, value)
        .map_err(|e| Error::with_source(ErrorKind::Encode, "the value cannot be written as JSON", e))
}

#[cfg(feature = "msgpack")]
pub(super) fn message_pack<V: Serialize>(value: &V, out: &mut Vec<u8>) -> Result<()> {
    rmp_serde::encode::write_named(out, value)
        .map_err(|e| Error::with_source(ErrorKind::Encode, "the value cannot be written as MessagePack", e))
}

#[cfg(not(feature = "msgpack"))]
pub(super) fn message_pack<V: Serialize>(_: &V, _: &mut Vec<u8>) -> Result<()> {
    Err(Error::new(ErrorKind::Encode, "this build of larder has no MessagePack: turn on the feature msgpack"))
}

pub(super) fn read<V: DeserializeOwned>(
    codec: Codec,
    payload: &[u8],
) -> std::result::Result<V, &'static str> {
    match codec {
        Codec::Json => serde_json::from_slice(payload).map_err(|_| "decode"),
        #[cfg(feature = "msgpack")]
        Codec::MessagePack => rmp_serde::from_slice(payload).map_err(|_| "decode"),
        #[cfg(not(feature = "msgpack"))]
        Codec::MessagePack => Err("unknown_layout"),
    }
}

/// A length of four bytes and the LZ4 block, or `None` where that would not be smaller.
#[cfg(feature = "compress")]
pub(super) fn compress(payload: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok()?;
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(&lz4_flex::block::compress(payload));
    (out.len() < payload.len()).then_some(out)
}

#[cfg(not(feature = "compress"))]
pub(super) fn compress(_: &[u8]) -> Option<Vec<u8>> {
    None
}

#[cfg(feature = "compress")]
pub(super) fn decompress(payload: &[u8], max_bytes: usize) -> std::result::Result<Vec<u8>, &'static str> {
    let (length, block) = payload.split_first_chunk::<4>().ok_or("truncated")?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| "too_large")?;
    // The length is a stranger's word: it must not decide how much memory is taken.
    if length > max_bytes {
        return Err("too_large");
    }
    lz4_flex::block::decompress(block, length).map_err(|_| "decode")
}

#[cfg(not(feature = "compress"))]
pub(super) fn decompress(_: &[u8], _: usize) -> std::result::Result<Vec<u8>, &'static str> {
    Err("unknown_layout")
}
