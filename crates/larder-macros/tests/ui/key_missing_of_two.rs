#[path = "../stub/larder.rs"]
mod larder;

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Shop {
    products: Cache<String>,
}

impl Shop {
    #[cached(cache = self.products)]
    async fn product(&self, lang: &str, id: u32) -> Result<String, LoadError<std::io::Error>> {
        Ok(id.to_string())
    }
}

fn main() {}
