//! The command line of sd3pipe.

use std::process::ExitCode;

fn main() -> ExitCode {
    sd3pipe::cli::main()
}
