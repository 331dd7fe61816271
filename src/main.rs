//! The `gpuferry` command.
fn main() {}
