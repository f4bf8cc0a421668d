#[path = "../stub/larder.rs"]
mod larder;

use larder::{LoadError, cached};

trait Shop {
    #[cached(cache = self.products, key = id)]
    async fn product(&self, id: u32) -> Result<String, LoadError<std::io::Error>>;
}

fn main() {}
