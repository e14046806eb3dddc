//! The lexer of nginx's configuration syntax: words, quoted strings, escapes, comments, and the signs `;`, `{` and `}`.
//!
//! The rules are those of `ngx_conf_read_token`: a quotation mark begins a string only at the beginning of a word, and
//! the brace of `${` belongs to the word. The lexer does not know what the words mean; `parser` builds directives of them.

use std::iter::Peekable;
use std::str::Chars;

use crate::config::problem::{Position, quote};

/// A lexical element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A word or a string, without its quotation marks and with its escapes resolved.
    Word(String),
    /// `;`
    End,
    /// `{`
    Open,
    /// `}`
    Close,
}

/// A syntax error with its position and a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) position: Position,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl SyntaxError {
    pub(crate) fn new(
        position: Position,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            position,
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

/// Splits one text into tokens.
pub(crate) struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    position: Position,
}

impl<'a> Lexer<'a> {
    /// Creates a lexer. A byte order mark at the beginning of the text is skipped.
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            rest: text.trim_start_matches('\u{feff}').chars().peekable(),
            position: Position {
                file: 0,
                line: 1,
                column: 1,
            },
        }
    }

    /// The position of the next character.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// The next token with its position, or `None` at the end of the text.
    pub(crate) fn next(&mut self) -> Result<Option<(Token, Position)>, SyntaxError> {
        self.skip_blanks();
        let position = self.position;
        let Some(first) = self.rest.peek().copied() else {
            return Ok(None);
        };
        let token = match first {
            ';' => self.sign(Token::End),
            '{' => self.sign(Token::Open),
            '}' => self.sign(Token::Close),
            '"' | '\'' => Token::Word(self.quoted(first)?),
            _ => Token::Word(self.plain()),
        };
        Ok(Some((token, position)))
    }

    /// Skips the Lua code of a `…_by_lua_block`, whose `{` was read, up to and including its `}`.
    ///
    /// Braces in Lua's strings, long strings (`[[ ]]`, `[=[ ]=]`) and comments do not count.
    pub(crate) fn skip_lua(&mut self) {
        let mut depth = 1_usize;
        while let Some(next) = self.advance() {
            match next {
                '{' => depth += 1,
                '}' => depth -= 1,
                '"' | '\'' => self.skip_lua_string(next),
                '[' => {
                    self.skip_lua_long_string();
                }
                '-' if self.rest.peek() == Some(&'-') => {
                    self.advance();
                    let is_long = self.rest.next_if_eq(&'[').is_some();
                    if is_long {
                        self.position.column += 1;
                    }
                    if !(is_long && self.skip_lua_long_string()) {
                        self.skip_line();
                    }
                }
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    fn sign(&mut self, token: Token) -> Token {
        self.advance();
        token
    }

    fn skip_blanks(&mut self) {
        while let Some(next) = self.rest.peek() {
            match next {
                ' ' | '\t' | '\r' | '\n' => {
                    self.advance();
                }
                '#' => self.skip_line(),
                _ => return,
            }
        }
    }

    fn skip_line(&mut self) {
        while self.advance().is_some_and(|next| next != '\n') {}
    }

    fn skip_lua_string(&mut self, mark: char) {
        while let Some(next) = self.advance() {
            match next {
                '\\' => {
                    self.advance();
                }
                '\n' => return,
                _ if next == mark => return,
                _ => {}
            }
        }
    }

    /// Skips a long string whose first `[` was read. Returns `false` if the bracket begins no long string.
    fn skip_lua_long_string(&mut self) -> bool {
        let mut level = 0_usize;
        while self.rest.peek() == Some(&'=') {
            self.advance();
            level += 1;
        }
        if self.rest.peek() != Some(&'[') {
            return false;
        }
        self.advance();
        // The number of `=` since the last `]`.
        let mut closing: Option<usize> = None;
        while let Some(next) = self.advance() {
            closing = match (next, closing) {
                (']', Some(count)) if count == level => return true,
                (']', _) => Some(0),
                ('=', Some(count)) => Some(count + 1),
                _ => None,
            };
        }
        true
    }

    fn quoted(&mut self, mark: char) -> Result<String, SyntaxError> {
        let position = self.position;
        self.advance();
        let mut word = String::new();
        loop {
            match self.advance() {
                None => {
                    return Err(SyntaxError::new(
                        position,
                        format!("the string that begins here with {mark} does not end"),
                        format!("write {mark} where it ends"),
                    ));
                }
                Some('\\') => self.escape(&mut word),
                Some(next) if next == mark => break,
                Some(next) => word.push(next),
            }
        }
        self.check_after_string(mark)?;
        Ok(word)
    }

    fn check_after_string(&mut self, mark: char) -> Result<(), SyntaxError> {
        match self.rest.peek() {
            None | Some(' ' | '\t' | '\r' | '\n' | ';' | '{' | ')') => Ok(()),
            Some(next) => Err(SyntaxError::new(
                self.position,
                format!("{} follows a string directly", quote(&next.to_string())),
                format!("put a blank or ; between, or write \\{mark} for a {mark} in the string"),
            )),
        }
    }

    fn plain(&mut self) -> String {
        let mut word = String::new();
        let mut is_after_dollar = false;
        while let Some(next) = self.rest.peek().copied() {
            let is_brace_of_variable = next == '{' && is_after_dollar;
            if matches!(next, ' ' | '\t' | '\r' | '\n' | ';')
                || (next == '{' && !is_brace_of_variable)
            {
                break;
            }
            self.advance();
            is_after_dollar = next == '$';
            if next == '\\' {
                self.escape(&mut word);
            } else {
                word.push(next);
            }
        }
        word
    }

    /// Reads what follows a backslash. Before most characters the backslash stays, because a regular expression needs it.
    fn escape(&mut self, word: &mut String) {
        match self.advance() {
            None => word.push('\\'),
            Some(next @ ('"' | '\'' | '\\')) => word.push(next),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(next) => word.extend(['\\', next]),
        }
    }

    fn advance(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        if next == '\n' {
            self.position = Position {
                file: 0,
                line: self.position.line + 1,
                column: 1,
            };
        } else {
            self.position.column += 1;
        }
        Some(next)
    }
}
