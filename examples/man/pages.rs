//! The manual pages of the commands. Used by `examples/man.rs`, which writes them, and by the test that compares them.

use std::io::{self, Write as _};

use clap::Command;
use clap_mangen::Man;

/// One manual page.
pub(crate) struct Page {
    /// The name of the file.
    pub(crate) file: String,
    /// The page, in the language of man(7).
    pub(crate) text: String,
}

/// The pages of all commands and their subcommands, but not the one of the program itself.
pub(crate) fn all() -> io::Result<Vec<Page>> {
    let mut program = tidegate::cli::command().disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    add_subcommands(&program, &mut pages)?;
    Ok(pages)
}

fn add_subcommands(parent: &Command, pages: &mut Vec<Page>) -> io::Result<()> {
    for command in parent
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        pages.push(page(command, parent)?);
        add_subcommands(command, pages)?;
    }
    Ok(())
}

fn page(command: &Command, parent: &Command) -> io::Result<Page> {
    let man = Man::new(command.clone())
        .source("tidegate")
        .manual("tidegate manual");
    let mut text = b".\\\" Written by \"cargo run --example man\". A test compares this page with the help of the command.\n".to_vec();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let after_help = command.get_after_help().map(ToString::to_string);
    write_after_help(&after_help.unwrap_or_default(), &mut text)?;
    writeln!(text, ".SH \"SEE ALSO\"")?;
    let root = "tidegate";
    if name(parent) != root {
        writeln!(text, ".BR {root} (1),")?;
    }
    writeln!(text, ".BR {} (1)", escaped(name(parent)))?;
    Ok(Page {
        file: man.get_filename(),
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}

/// The text below the options of `--help`: indented lines become the section EXAMPLES, with their line breaks; the other
/// paragraphs become the section NOTES.
fn write_after_help(help: &str, text: &mut Vec<u8>) -> io::Result<()> {
    let is_example = |line: &&str| line.starts_with("  ");
    let (examples, others): (Vec<_>, Vec<_>) = help.lines().partition(is_example);
    let others = others.join("\n").replace("Examples:", "");
    let notes: Vec<_> = others
        .split("\n\n")
        .map(str::trim)
        .filter(|note| !note.is_empty())
        .collect();
    if !notes.is_empty() {
        writeln!(text, ".SH NOTES")?;
        for (index, note) in notes.iter().enumerate() {
            if index > 0 {
                writeln!(text, ".PP")?;
            }
            for line in note.lines() {
                writeln!(text, "{}", escaped(line))?;
            }
        }
    }
    if !examples.is_empty() {
        writeln!(text, ".SH EXAMPLES\n.nf")?;
        for line in &examples {
            writeln!(text, "{}", escaped(line.strip_prefix("  ").unwrap_or(line)))?;
        }
        writeln!(text, ".fi")?;
    }
    Ok(())
}

/// `tidegate-htpasswd-add`, or `tidegate` for the program itself.
fn name(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

/// The line as literal text of a page: without escape sequences, and never a request, which starts with a dot or an apostrophe.
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}
