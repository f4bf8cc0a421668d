//! What a mistake with `#[cached]` gives: an error at its place, with what to write instead.

/// The expected messages lie beside the cases. After a change, `TRYBUILD=overwrite cargo test -p larder-macros --test
/// mistakes` writes them; read the difference.
#[test]
fn a_mistake_is_answered_with_what_to_write_instead() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
