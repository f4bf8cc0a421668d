#[path = "../stub/larder.rs"]
mod larder;

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Shop {
    products: Cache<String>,
}

impl Shop {
    #[cached(cache = self.products, key = id.to_string())]
    async fn product(&self, id: &dyn ToString) -> Result<String, LoadError<std::io::Error>> {
        Ok(id.to_string())
    }
}

fn main() {}
