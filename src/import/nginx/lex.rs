//! nginx's words: quoting, escapes, comments, and the three signs that end a directive or a block.
//!
//! Called by `tree`. The rules are those of `ngx_conf_read_token`: a quotation mark counts at the beginning of a word
//! only, and `${` belongs to a word. What the words mean is not known here.

use std::iter::Peekable;
use std::str::Chars;

use crate::config::problem::{Position, quote};

/// What the text is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Without its quotation marks, escapes resolved.
    Word(String),
    /// `;`
    End,
    /// `{`
    Open,
    /// `}`
    Close,
}

/// What is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LexError {
    pub(super) place: Position,
    pub(super) what: String,
    pub(super) remedy: String,
}

/// The tokens of one text, one after the other.
pub(super) struct Lexer<'a> {
    rest: Peekable<Chars<'a>>,
    place: Position,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            rest: text.trim_start_matches('\u{feff}').chars().peekable(),
            place: Position {
                file: 0,
                line: 1,
                column: 1,
            },
        }
    }

    /// The place of the next character.
    pub(super) fn place(&self) -> Position {
        self.place
    }

    /// The next token; nothing at the end of the text.
    pub(super) fn next(&mut self) -> Result<Option<(Token, Position)>, LexError> {
        self.skip_blanks();
        let place = self.place;
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
        Ok(Some((token, place)))
    }

    /// Skips the code of a `…_by_lua_block`, whose `{` was read, up to its `}`.
    pub(super) fn skip_lua(&mut self) {
        let mut depth = 1_usize;
        while let Some(next) = self.advance() {
            match next {
                '{' => depth += 1,
                '}' => depth -= 1,
                '"' | '\'' => self.skip_string(next),
                '-' if self.rest.peek() == Some(&'-') => self.skip_line(),
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

    fn skip_string(&mut self, mark: char) {
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

    fn quoted(&mut self, mark: char) -> Result<String, LexError> {
        let place = self.place;
        self.advance();
        let mut word = String::new();
        loop {
            match self.advance() {
                None => {
                    return Err(LexError {
                        place,
                        what: format!("the string that begins here with {mark} does not end"),
                        remedy: format!("write {mark} where it ends"),
                    });
                }
                Some('\\') => self.escape(&mut word),
                Some(next) if next == mark => break,
                Some(next) => word.push(next),
            }
        }
        self.check_end_of_string(mark)?;
        Ok(word)
    }

    fn check_end_of_string(&mut self, mark: char) -> Result<(), LexError> {
        match self.rest.peek() {
            None | Some(' ' | '\t' | '\r' | '\n' | ';' | '{' | ')') => Ok(()),
            Some(next) => Err(LexError {
                place: self.place,
                what: format!("{} stands right behind a string", quote(&next.to_string())),
                remedy: format!("put a blank or ; between, or write \\{mark} for a {mark} in it"),
            }),
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

    /// Behind a backslash: of most characters both stay, as a regular expression wants it.
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
            self.place = Position {
                file: 0,
                line: self.place.line + 1,
                column: 1,
            };
        } else {
            self.place.column += 1;
        }
        Some(next)
    }
}
