//! The parser of nginx's configuration syntax: directives and blocks.
//!
//! `includes` calls [`parse`] for each file. A directive without its `;` takes the next directive for its arguments, so that a
//! restriction would get lost. The parser therefore knows how many arguments the usual directives have, and that a line which begins with
//! the name of a directive is one. It also knows that the content of a Lua block is not nginx's syntax.

use crate::config::nearest::nearest;
use crate::config::problem::{Position, quote};

use crate::import::nginx::lexer::{Lexer, SyntaxError, Token};

/// A position in one of the files that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// Parses the text of the file with this index. `is_directive` returns whether a word is the name of a directive.
pub(crate) fn parse(
    file: usize,
    text: &str,
    is_directive: fn(&str) -> bool,
) -> Result<Vec<Directive>, SyntaxError> {
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
                check_arguments(&words, is_directive)?;
                let directive = take_directive(file, &mut words, position, ";")?;
                block.directives.push(directive);
            }
            Token::Open => {
                check_arguments(&words, is_directive)?;
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
        return Err(SyntaxError::new(
            sign_position,
            format!("{sign} without a directive before it"),
            format!("remove this {sign}, or write the directive that belongs to it"),
        ));
    };
    Ok(Directive {
        name,
        args: taken.map(|(word, _)| word).collect(),
        block: None,
        at: SourcePos { file, position },
    })
}

/// Reports the place of a missing `;`: the directive has more arguments than nginx accepts, or a later line begins with the name of
/// another directive.
fn check_arguments(
    words: &[(String, Position)],
    is_directive: fn(&str) -> bool,
) -> Result<(), SyntaxError> {
    let Some(((name, name_position), arguments)) = words.split_first() else {
        return Ok(());
    };
    let most = MOST_ARGUMENTS.iter().find(|(known, _)| known == name);
    let first_extra = most.and_then(|(_, most)| arguments.get(*most));
    let mut lines = words.iter().zip(arguments);
    let next_directive = lines.find_map(|((_, before), word)| {
        let begins_a_line = before.line < word.1.line;
        (begins_a_line && is_directive(&word.0)).then_some(word)
    });
    let Some((word, position)) = first_extra.or(next_directive) else {
        return Ok(());
    };
    Err(SyntaxError::new(
        *name_position,
        format!(
            "the directive {} would have {} as an argument (line {})",
            quote(name),
            quote(word),
            position.line
        ),
        format!(
            "write ; before {}, or put it on the line before if it is an argument; nginx -t checks the number of arguments",
            quote(word)
        ),
    ))
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
    Err(SyntaxError::new(
        position,
        format!("the directive {} has no ; before {before}", quote(name)),
        missing_end_remedy(name),
    ))
}

fn missing_end_remedy(name: &str) -> String {
    match nearest(name, BLOCKS.iter().copied()) {
        Some(block) if block == name => format!("write ; after it, or {{ … }} for the {block}"),
        _ => "write ; after its last word; nginx -t reports the same place".to_owned(),
    }
}

fn stray_brace(position: Position) -> SyntaxError {
    SyntaxError::new(
        position,
        "} without an open block",
        "remove it, or look for a { that is missing above",
    )
}

fn unclosed(opener: &Directive) -> SyntaxError {
    SyntaxError::new(
        opener.at.position,
        format!(
            "the block {} that begins here does not end",
            quote(&opener.name)
        ),
        "write } where it ends",
    )
}

/// Limits the nesting, because later steps walk over nested blocks by recursion.
fn check_depth(depth: usize, position: Position) -> Result<(), SyntaxError> {
    if depth < MAX_DEPTH {
        return Ok(());
    }
    Err(SyntaxError::new(
        position,
        format!("more than {MAX_DEPTH} blocks within each other"),
        "close the blocks above",
    ))
}

/// The number of arguments that nginx accepts at most, for directives whose number is fixed.
const MOST_ARGUMENTS: &[(&str, usize)] = &[
    ("alias", 1),
    ("allow", 1),
    ("auth_basic", 1),
    ("auth_basic_user_file", 1),
    ("auth_request", 1),
    ("client_body_timeout", 1),
    ("client_max_body_size", 1),
    ("default_type", 1),
    ("deny", 1),
    ("internal", 0),
    ("proxy_buffering", 1),
    ("proxy_connect_timeout", 1),
    ("proxy_http_version", 1),
    ("proxy_pass", 1),
    ("proxy_read_timeout", 1),
    ("proxy_request_buffering", 1),
    ("proxy_send_timeout", 1),
    ("proxy_set_header", 2),
    ("real_ip_header", 1),
    ("real_ip_recursive", 1),
    ("root", 1),
    ("satisfy", 1),
    ("send_timeout", 1),
    ("set", 2),
    ("set_real_ip_from", 1),
    ("ssl_certificate", 1),
    ("ssl_certificate_key", 1),
    ("ssl_client_certificate", 1),
    ("ssl_verify_client", 1),
];
/// The maximum nesting. nginx's own contexts are nested at most five deep; nested locations may add some.
const MAX_DEPTH: usize = 40;
/// The blocks that a directive without a `;` may be meant to be.
const BLOCKS: &[&str] = &[
    "server", "location", "http", "upstream", "map", "events", "if",
];
