#[path = "../stub/larder.rs"]
mod larder;

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Shop {
    products: Cache<String>,
}

impl Shop {
    #[cached(key = id)]
    async fn product(&self, id: u32) -> Result<String, LoadError<std::io::Error>> {
        Ok(id.to_string())
    }
}

fn main() {}
