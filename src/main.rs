//! The command line of sd3pipe.
fn main() {}
