//! From words to directives and blocks.
//!
//! Called by `include`. Which directives there are is not known here; only that the code of a Lua block is no nginx.

use crate::config::nearest::nearest;
use crate::config::problem::{Position, quote};

use crate::import::nginx::lex::{LexError, Lexer, Token};

/// A file, by its number among those that were read, and a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourcePos {
    pub(super) file: usize,
    pub(super) place: Position,
}

/// `name args… ;` or `name args… { … }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) name: String,
    pub(super) args: Vec<String>,
    pub(super) block: Option<Vec<Self>>,
    pub(super) at: SourcePos,
}

impl Directive {
    /// The first argument; nothing written is the empty text.
    pub(super) fn first(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }

    /// An argument by its number from 0.
    pub(super) fn arg(&self, number: usize) -> &str {
        self.args.get(number).map_or("", String::as_str)
    }

    /// What stands in its braces.
    pub(super) fn inner(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }

    /// The directives of this name in its braces.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.inner().iter().filter(move |inner| inner.name == name)
    }
}

/// An open block.
struct Block {
    opener: Option<Directive>,
    directives: Vec<Directive>,
}

/// Reads one file's text.
pub(super) fn parse(file: usize, text: &str) -> Result<Vec<Directive>, LexError> {
    let mut lexer = Lexer::new(text);
    let mut above: Vec<Block> = Vec::new();
    let mut level = Block {
        opener: None,
        directives: Vec::new(),
    };
    let mut words: Vec<(String, Position)> = Vec::new();
    while let Some((token, place)) = lexer.next()? {
        match token {
            Token::Word(word) => words.push((word, place)),
            Token::End => {
                let directive = directive(file, &mut words, place, ";")?;
                level.directives.push(directive);
            }
            Token::Open => {
                let opener = directive(file, &mut words, place, "{")?;
                if opener.name.ends_with("_by_lua_block") {
                    lexer.skip_lua();
                    level.directives.push(opener);
                    continue;
                }
                check_depth(above.len(), place)?;
                let inner = Block {
                    opener: Some(opener),
                    directives: Vec::new(),
                };
                above.push(std::mem::replace(&mut level, inner));
            }
            Token::Close => {
                check_complete(&words, place, "}")?;
                let outer = above.pop().ok_or_else(|| stray_brace(place))?;
                let closed = std::mem::replace(&mut level, outer);
                if let Some(mut opener) = closed.opener {
                    opener.block = Some(closed.directives);
                    level.directives.push(opener);
                }
            }
        }
    }
    check_complete(&words, lexer.place(), "the end of the file")?;
    match level.opener {
        None => Ok(level.directives),
        Some(opener) => Err(unclosed(&opener)),
    }
}

/// The words before a sign, which must be there.
fn directive(
    file: usize,
    words: &mut Vec<(String, Position)>,
    place: Position,
    sign: &str,
) -> Result<Directive, LexError> {
    let mut taken = words.drain(..);
    let Some((name, place)) = taken.next() else {
        return Err(LexError {
            place,
            what: format!("{sign} without a directive before it"),
            remedy: format!("remove this {sign}, or write the directive that belongs to it"),
        });
    };
    Ok(Directive {
        name,
        args: taken.map(|(word, _)| word).collect(),
        block: None,
        at: SourcePos { file, place },
    })
}

fn check_complete(
    words: &[(String, Position)],
    place: Position,
    before: &str,
) -> Result<(), LexError> {
    let Some((name, at)) = words.first() else {
        return Ok(());
    };
    // The ; is missed where the directive begins, not where its loss is noticed.
    let place = if at.line < place.line { *at } else { place };
    Err(LexError {
        place,
        what: format!("the directive {} has no ; before {before}", quote(name)),
        remedy: remedy_of(name),
    })
}

fn remedy_of(name: &str) -> String {
    match nearest(name, BLOCKS.iter().copied()) {
        Some(block) if block == name => format!("write ; behind it, or {{ … }} for the {block}"),
        _ => "write ; behind its last word; nginx -t finds the same place".to_owned(),
    }
}

fn stray_brace(place: Position) -> LexError {
    LexError {
        place,
        what: "} without an open block".to_owned(),
        remedy: "remove it, or look for a { that is missing above".to_owned(),
    }
}

fn unclosed(opener: &Directive) -> LexError {
    LexError {
        place: opener.at.place,
        what: format!(
            "the block {} that begins here does not end",
            quote(&opener.name)
        ),
        remedy: "write } where it ends".to_owned(),
    }
}

/// Blocks within blocks are walked by recursion later on.
fn check_depth(depth: usize, place: Position) -> Result<(), LexError> {
    if depth < DEEPEST {
        return Ok(());
    }
    Err(LexError {
        place,
        what: format!("more than {DEEPEST} blocks within each other"),
        remedy: "close the blocks above".to_owned(),
    })
}

/// nginx's own contexts go five deep; nested locations may add some.
const DEEPEST: usize = 40;
const BLOCKS: &[&str] = &[
    "server", "location", "http", "upstream", "map", "events", "if",
];
