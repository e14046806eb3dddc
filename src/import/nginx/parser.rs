//! The parser of nginx's configuration syntax: directives and blocks.
//!
//! `includes` calls [`parse`] for each file. The parser does not know which directives exist; it only knows that the
//! content of a Lua block is not nginx's syntax.

use crate::config::nearest::nearest;
use crate::config::problem::{Position, quote};

use crate::import::nginx::lexer::{Lexer, SyntaxError, Token};

/// A position in one of the files that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourcePos {
    /// The index of the file, in the order in which the files were read.
    pub(crate) file: usize,
    pub(crate) position: Position,
}

/// `name args… ;` or `name args… { … }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directive {
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    pub(crate) block: Option<Vec<Self>>,
    pub(crate) at: SourcePos,
}

impl Directive {
    /// The first argument, or the empty text if there is none.
    pub(crate) fn first(&self) -> &str {
        self.arg(0)
    }

    /// The argument with this index, or the empty text if there is none.
    pub(crate) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// The directives in the braces.
    pub(crate) fn inner(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }

    /// The directives in the braces that have this name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.inner().iter().filter(move |inner| inner.name == name)
    }

    /// The directive as messages name it: its name and its arguments.
    pub(crate) fn label(&self) -> String {
        let args = self.args.iter().map(|arg| match arg.as_str() {
            "" => "\"\"",
            arg => arg,
        });
        let words: Vec<&str> = std::iter::once(self.name.as_str()).chain(args).collect();
        words.join(" ")
    }
}

/// A block whose `}` was not read yet.
struct Block {
    opener: Option<Directive>,
    directives: Vec<Directive>,
}

/// Parses the text of the file with this index.
pub(crate) fn parse(file: usize, text: &str) -> Result<Vec<Directive>, SyntaxError> {
    let mut lexer = Lexer::new(text);
    let mut outer_blocks: Vec<Block> = Vec::new();
    let mut block = Block {
        opener: None,
        directives: Vec::new(),
    };
    let mut words: Vec<(String, Position)> = Vec::new();
    while let Some((token, position)) = lexer.next()? {
        match token {
            Token::Word(word) => words.push((word, position)),
            Token::End => {
                let directive = take_directive(file, &mut words, position, ";")?;
                block.directives.push(directive);
            }
            Token::Open => {
                let opener = take_directive(file, &mut words, position, "{")?;
                if opener.name.ends_with("_by_lua_block") {
                    lexer.skip_lua();
                    block.directives.push(opener);
                    continue;
                }
                check_depth(outer_blocks.len(), position)?;
                let inner = Block {
                    opener: Some(opener),
                    directives: Vec::new(),
                };
                outer_blocks.push(std::mem::replace(&mut block, inner));
            }
            Token::Close => {
                check_complete(&words, position, "}")?;
                let outer = outer_blocks.pop().ok_or_else(|| stray_brace(position))?;
                let closed = std::mem::replace(&mut block, outer);
                if let Some(mut opener) = closed.opener {
                    opener.block = Some(closed.directives);
                    block.directives.push(opener);
                }
            }
        }
    }
    check_complete(&words, lexer.position(), "the end of the file")?;
    match block.opener {
        None => Ok(block.directives),
        Some(opener) => Err(unclosed(&opener)),
    }
}

/// Makes a directive of the words before a sign. At least one word must have been read.
fn take_directive(
    file: usize,
    words: &mut Vec<(String, Position)>,
    sign_position: Position,
    sign: &str,
) -> Result<Directive, SyntaxError> {
    let mut taken = words.drain(..);
    let Some((name, position)) = taken.next() else {
        return Err(SyntaxError {
            position: sign_position,
            what: format!("{sign} without a directive before it"),
            remedy: format!("remove this {sign}, or write the directive that belongs to it"),
        });
    };
    Ok(Directive {
        name,
        args: taken.map(|(word, _)| word).collect(),
        block: None,
        at: SourcePos { file, position },
    })
}

fn check_complete(
    words: &[(String, Position)],
    position: Position,
    before: &str,
) -> Result<(), SyntaxError> {
    let Some((name, name_position)) = words.first() else {
        return Ok(());
    };
    // Report the line of the directive, because the missing ; belongs there and not to a later line.
    let position = if name_position.line < position.line {
        *name_position
    } else {
        position
    };
    Err(SyntaxError {
        position,
        what: format!("the directive {} has no ; before {before}", quote(name)),
        remedy: missing_end_remedy(name),
    })
}

fn missing_end_remedy(name: &str) -> String {
    match nearest(name, BLOCKS.iter().copied()) {
        Some(block) if block == name => format!("write ; after it, or {{ … }} for the {block}"),
        _ => "write ; after its last word; nginx -t reports the same place".to_owned(),
    }
}

fn stray_brace(position: Position) -> SyntaxError {
    SyntaxError {
        position,
        what: "} without an open block".to_owned(),
        remedy: "remove it, or look for a { that is missing above".to_owned(),
    }
}

fn unclosed(opener: &Directive) -> SyntaxError {
    SyntaxError {
        position: opener.at.position,
        what: format!(
            "the block {} that begins here does not end",
            quote(&opener.name)
        ),
        remedy: "write } where it ends".to_owned(),
    }
}

/// Limits the nesting, because later steps walk over nested blocks by recursion.
fn check_depth(depth: usize, position: Position) -> Result<(), SyntaxError> {
    if depth < MAX_DEPTH {
        return Ok(());
    }
    Err(SyntaxError {
        position,
        what: format!("more than {MAX_DEPTH} blocks within each other"),
        remedy: "close the blocks above".to_owned(),
    })
}

/// The maximum nesting. nginx's own contexts are nested at most five deep; nested locations may add some.
const MAX_DEPTH: usize = 40;
/// The blocks that a directive without a `;` may be meant to be.
const BLOCKS: &[&str] = &[
    "server", "location", "http", "upstream", "map", "events", "if",
];
