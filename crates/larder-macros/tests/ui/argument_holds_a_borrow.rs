#[path = "../stub/larder.rs"]
mod larder;

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Shop {
    products: Cache<String>,
}

impl Shop {
    #[cached(cache = self.products, key = id)]
    async fn product(&self, id: Option<&str>) -> Result<String, LoadError<std::io::Error>> {
        { let _ = id; Ok(String::new()) }
    }
}

fn main() {}
