#[path = "../stub/larder.rs"]
mod larder;

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Shop {
    products: Cache<String>,
}

impl Shop {
    #[cached(cache = self.products, key = id)]
    async fn product(&self, id: u32) -> std::io::Result<String> {
        Ok(id.to_string())
    }
}

fn main() {}
