//! What an author reads when something is written wrongly: the compiler's own words, kept in
//! `tests/ui/*.stderr`. `TRYBUILD=overwrite cargo test -p windlass --test compile_errors` renews
//! them.

#[test]
fn every_error_points_at_the_authors_line_and_says_what_to_write() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
