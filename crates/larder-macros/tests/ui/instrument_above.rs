#[path = "../stub/larder.rs"]
mod larder;

use larder::{Cache, LoadError, cached};

#[derive(Clone)]
struct Shop {
    products: Cache<String>,
}

impl Shop {
    // What `#[tracing::instrument]` above the attribute leaves of the body.
    #[cached(cache = self.products, key = id)]
    async fn product(&self, id: u32) -> Result<String, LoadError<std::io::Error>> {
        #[allow(unreachable_code)]
        if false {
            let __tracing_attr_fake_return: Result<String, LoadError<std::io::Error>> = loop {};
            return __tracing_attr_fake_return;
        }
        Ok(id.to_string())
    }
}

fn main() {}
