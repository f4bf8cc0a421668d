#[path = "../stub/larder.rs"]
mod larder;

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Shop {
    products: Cache<String>,
}

impl Shop {
    #[cached(cache = self.products, key = id, size = 100)]
    async fn product(&self, id: u32) -> Result<String, LoadError<std::io::Error>> {
        Ok(id.to_string())
    }
}

fn main() {}
