//! What a format alone costs: instructions of encoding and decoding one item in memory, without larder.

use std::hint::black_box;

use crate::figures::Figures;
use crate::instructions;
use crate::item::Item;
use crate::lane::Outcome;
use crate::table::Table;

/// The argument of the hidden subcommand `spin` that encodes and decodes.
pub(crate) const SPIN: &str = "format";
const TIMES: u64 = 400;

#[derive(Clone, Copy)]
enum Format {
    Json,
    /// With the fields' names, as larder's format `MessagePack`.
    MessagePack,
}

impl Format {
    const ALL: [(Self, &'static str); 2] =
        [(Self::Json, "JSON"), (Self::MessagePack, "MessagePack with named fields")];

    fn encode(self, item: &Item) -> Outcome<Vec<u8>> {
        Ok(match self {
            Self::Json => serde_json::to_vec(item)?,
            Self::MessagePack => rmp_serde::to_vec_named(item)?,
        })
    }

    fn decode(self, bytes: &[u8]) -> Outcome<Item> {
        Ok(match self {
            Self::Json => serde_json::from_slice(bytes)?,
            Self::MessagePack => rmp_serde::from_slice(bytes)?,
        })
    }
}

/// Needs valgrind.
pub(crate) fn count() -> Outcome<Figures> {
    let mut table = Table::new(&["format", "bytes", "instructions to encode", "to decode"]);
    for (format, name) in Format::ALL {
        eprintln!("count: {name}");
        let counted = |what| instructions::per_turn(&[SPIN, what, name], TIMES);
        let bytes = format.encode(&Item::new(0))?.len();
        table.row(&[
            name,
            &bytes.to_string(),
            &counted("encode")?.to_string(),
            &counted("decode")?.to_string(),
        ]);
    }
    Ok(Figures { name: "formats", text: table.finish() })
}

/// What `spin format` runs under valgrind.
pub(crate) fn spin(what: &str, name: &str, times: u64) -> Outcome<()> {
    let (format, _) = Format::ALL.into_iter().find(|(_, known)| *known == name).ok_or("no such format")?;
    let item = Item::new(0);
    let bytes = format.encode(&item)?;
    for _ in 0..times {
        match what {
            "encode" => drop(black_box(format.encode(black_box(&item))?)),
            _ => drop(black_box(format.decode(black_box(&bytes))?)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_give_the_item_back() -> Outcome<()> {
        let item = Item::new(7);
        for (format, name) in Format::ALL {
            assert_eq!(format.decode(&format.encode(&item)?)?, item, "{name}");
            spin("decode", name, 1)?;
        }
        Ok(())
    }
}
