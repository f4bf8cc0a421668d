//! The verified round trip: an encoded value is decoded again and compared before it is stored.
//!
//! `V` need not implement `PartialEq`. It is compared by its *fingerprint*, a hash of what it serializes. The
//! fingerprint distinguishes values that formats confuse (`None` and `Some(None)`, NaN and nothing). It ignores what
//! may change from one reading to the next: the order of sequences and maps, because a `HashSet` has none, and the
//! width of integers.

use std::fmt::{self, Display};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;
use serde::ser::{self, Serializer};

/// Hashes what a value serializes.
pub(super) fn fingerprint(value: &(impl Serialize + ?Sized)) -> Result<u64, Unhashed> {
    value.serialize(Fingerprint)
}

/// The error of a value whose own `Serialize` fails.
#[derive(Debug)]
pub(super) struct Unhashed(String);

impl Display for Unhashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unhashed {}

impl ser::Error for Unhashed {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

struct Fingerprint;

fn hash(parts: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

fn text(value: &str) -> u64 {
    hash(("text", value))
}

fn unsigned(value: u128) -> u64 {
    match i128::try_from(value) {
        Ok(value) => signed(value),
        Err(_) => hash(("huge", value)),
    }
}

/// Uses a mixer (the finalizer of SplitMix64) and not the hasher: a sequence may have millions of integers, and
/// hashing them took seconds in builds without optimisation.
fn signed(value: i128) -> u64 {
    let bytes = value.to_le_bytes();
    let (low, high) = bytes.split_at(8);
    let half = |half: &[u8]| half.iter().rev().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    mix(half(low) ^ mix(half(high) ^ 0x696E_7465_6765_7200))
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// A hash of parts that does not depend on their order.
#[derive(Default)]
struct HashedParts {
    variant: Option<&'static str>,
    kind: &'static str,
    key: u64,
    sum: u64,
    count: u64,
}

impl HashedParts {
    fn new(kind: &'static str, variant: Option<&'static str>) -> Self {
        Self { variant, kind, ..Self::default() }
    }

    fn add(&mut self, part: u64) {
        self.add_many(part, 1);
    }

    /// Adds a part `times` times.
    fn add_many(&mut self, part: u64, times: u64) {
        // Mixed again, because sums of sums would not depend on the nesting.
        self.sum = self.sum.wrapping_add(mix(part ^ 0x7061_7274).wrapping_mul(times));
        self.count = self.count.wrapping_add(times);
    }

    fn finish(self) -> u64 {
        let whole = hash((self.kind, self.sum, self.count));
        self.variant.map_or(whole, |variant| hash(("variant", variant, whole)))
    }
}

macro_rules! numbers {
    ($($method:ident($type:ty) => $hashed:ident),*) => {$(
        fn $method(self, value: $type) -> Result<u64, Unhashed> {
            Ok($hashed(value.into()))
        }
    )*};
}

impl Serializer for Fingerprint {
    type Ok = u64;
    type Error = Unhashed;
    type SerializeSeq = HashedParts;
    type SerializeTuple = HashedParts;
    type SerializeTupleStruct = HashedParts;
    type SerializeTupleVariant = HashedParts;
    type SerializeMap = HashedParts;
    type SerializeStruct = HashedParts;
    type SerializeStructVariant = HashedParts;

    numbers!(
        serialize_i8(i8) => signed, serialize_i16(i16) => signed, serialize_i32(i32) => signed,
        serialize_i64(i64) => signed, serialize_i128(i128) => signed,
        serialize_u8(u8) => unsigned, serialize_u16(u16) => unsigned, serialize_u32(u32) => unsigned,
        serialize_u64(u64) => unsigned, serialize_u128(u128) => unsigned
    );

    fn serialize_bool(self, value: bool) -> Result<u64, Unhashed> {
        Ok(hash(("bool", value)))
    }

    fn serialize_f32(self, value: f32) -> Result<u64, Unhashed> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<u64, Unhashed> {
        // All NaNs count as equal.
        Ok(hash(("float", if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() })))
    }

    fn serialize_char(self, value: char) -> Result<u64, Unhashed> {
        Ok(text(value.encode_utf8(&mut [0; 4])))
    }

    fn serialize_str(self, value: &str) -> Result<u64, Unhashed> {
        Ok(text(value))
    }

    /// Hashes bytes as the sequence that formats without bytes write.
    fn serialize_bytes(self, value: &[u8]) -> Result<u64, Unhashed> {
        let mut counts = [0u64; 256];
        for byte in value {
            if let Some(count) = counts.get_mut(usize::from(*byte)) {
                *count += 1;
            }
        }
        let mut parts = HashedParts::new("sequence", None);
        for (byte, times) in (0u8..=255).zip(counts) {
            parts.add_many(unsigned(byte.into()), times);
        }
        Ok(parts.finish())
    }

    fn serialize_none(self) -> Result<u64, Unhashed> {
        Ok(hash("none"))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<u64, Unhashed> {
        Ok(hash(("some", value.serialize(Self)?)))
    }

    fn serialize_unit(self) -> Result<u64, Unhashed> {
        Ok(hash("unit"))
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<u64, Unhashed> {
        Ok(hash("unit"))
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<u64, Unhashed> {
        Ok(text(variant))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<u64, Unhashed> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<u64, Unhashed> {
        Ok(hash(("variant", variant, value.serialize(self)?)))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<HashedParts, Unhashed> {
        Ok(HashedParts::new("sequence", None))
    }

    fn serialize_tuple(self, _: usize) -> Result<HashedParts, Unhashed> {
        Ok(HashedParts::new("sequence", None))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<HashedParts, Unhashed> {
        Ok(HashedParts::new("sequence", None))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<HashedParts, Unhashed> {
        Ok(HashedParts::new("sequence", Some(variant)))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<HashedParts, Unhashed> {
        Ok(HashedParts::new("map", None))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<HashedParts, Unhashed> {
        Ok(HashedParts::new("map", None))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<HashedParts, Unhashed> {
        Ok(HashedParts::new("map", Some(variant)))
    }

    fn is_human_readable(&self) -> bool {
        // Like all formats here.
        true
    }
}

macro_rules! sequences {
    ($($name:ident::$method:ident),*) => {$(
        impl ser::$name for HashedParts {
            type Ok = u64;
            type Error = Unhashed;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unhashed> {
                self.add(fingerprint(value)?);
                Ok(())
            }

            fn end(self) -> Result<u64, Unhashed> {
                Ok(self.finish())
            }
        }
    )*};
}

sequences!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

macro_rules! structs {
    ($($name:ident),*) => {$(
        impl ser::$name for HashedParts {
            type Ok = u64;
            type Error = Unhashed;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                field: &'static str,
                value: &T,
            ) -> Result<(), Unhashed> {
                self.add(hash((text(field), fingerprint(value)?)));
                Ok(())
            }

            fn end(self) -> Result<u64, Unhashed> {
                Ok(self.finish())
            }
        }
    )*};
}

structs!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for HashedParts {
    type Ok = u64;
    type Error = Unhashed;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unhashed> {
        self.key = fingerprint(key)?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unhashed> {
        let key = self.key;
        self.add(hash((key, fingerprint(value)?)));
        Ok(())
    }

    fn end(self) -> Result<u64, Unhashed> {
        Ok(self.finish())
    }
}
