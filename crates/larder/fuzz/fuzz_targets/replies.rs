//! The codec of replies, on any bytes. Its modules are included by path: they are private to larder, and stay so.

#![no_main]

#[path = "../../src/store/redis"]
#[allow(dead_code, reason = "the target uses a part of the modules")]
mod store {
    #[path = "wire"]
    pub(crate) mod wire {
        mod decode;
        mod error;
        mod reader;
        mod reply;
        mod scan;

        #[path = "tests"]
        pub(crate) mod tests {
            pub(crate) mod replies;
        }
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| store::wire::tests::replies::check(input));
