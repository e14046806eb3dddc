//! Writes the manual page of every command into `examples/man`, from the definitions of the command line.
//!
//! `cargo run --example man` is needed after a change of an option, an argument or the text of `--help`. A test compares the
//! pages with the command line. `tidegate.1` is written by hand: it describes the program as a whole.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

#[path = "man/pages.rs"]
mod pages;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/man");
    let written = pages::all().and_then(|pages| {
        for page in &pages {
            std::fs::write(folder.join(&page.file), &page.text)?;
        }
        Ok(pages.len())
    });
    match written {
        Ok(count) => {
            let _ = writeln!(
                std::io::stdout(),
                "wrote {count} pages to {}",
                folder.display()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(
                std::io::stderr(),
                "cannot write the pages to {}: {error}",
                folder.display()
            );
            ExitCode::FAILURE
        }
    }
}
