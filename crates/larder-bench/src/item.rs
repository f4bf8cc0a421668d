//! The value that every measurement caches: an article of a shop, about 1 KiB as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The number of items, with ids from 0.
pub(crate) const ITEMS: u64 = 1000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    id: u64,
    sku: String,
    name: String,
    description: String,
    price_cents: u64,
    currency: String,
    in_stock: bool,
    stock: BTreeMap<String, u32>,
    categories: Vec<String>,
    attributes: BTreeMap<String, String>,
    size: Size,
    images: Vec<String>,
    rating: f64,
    reviews: u32,
    updated_at: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Size {
    width_mm: u32,
    height_mm: u32,
    depth_mm: u32,
    weight_g: u32,
}

impl Item {
    pub(crate) fn new(id: u64) -> Self {
        let small = u32::try_from(id % 100).unwrap_or_default();
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Self {
            id,
            sku: format!("PAN-{id:06}-B"),
            name: "Enamelled cast-iron casserole, round, 24 cm".to_owned(),
            description: "Sears, braises and bakes: the heavy base spreads the heat, the tight lid bastes by itself. \
                          Two layers of enamel keep it from rusting and from taking on smells; suited to every hob, \
                          induction included, and to the oven up to 260 °C. Hand-finished \"double\" handles, \
                          a lid knob of brushed steel, and a matt inner face that needs no seasoning. Made in the same \
                          foundry since 1925."
                .to_owned(),
            price_cents: 12_900 + id,
            currency: "EUR".to_owned(),
            in_stock: true,
            stock: [("berlin", 12), ("lyon", small), ("porto", 7)].map(|(k, v)| (k.to_owned(), v)).into(),
            categories: ["kitchen", "cookware", "casseroles"].map(str::to_owned).into(),
            attributes: map(&[
                ("colour", "marine blue"),
                ("dishwasher", "no, by hand"),
                ("material", "cast iron"),
                ("warranty", "30 years"),
            ]),
            size: Size { width_mm: 320, height_mm: 175, depth_mm: 250, weight_g: 4_380 + small },
            images: (1..=3).map(|n| format!("https://img.example.com/p/{id:06}/{n}.webp")).collect(),
            rating: 4.7,
            reviews: 1_204 + small,
            updated_at: "2026-11-03T09:41:07.250Z".to_owned(),
        }
    }

    pub(crate) fn all() -> Vec<Self> {
        (0..ITEMS).map(Self::new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_takes_about_a_kibibyte_and_is_read_back() -> serde_json::Result<()> {
        for item in Item::all() {
            let json = serde_json::to_vec(&item)?;
            assert!((1000..=1050).contains(&json.len()), "{}", json.len());
            assert_eq!(serde_json::from_slice::<Item>(&json)?, item);
        }
        Ok(())
    }
}
